"""Predict: the probability of every stay, labelled or not, as a table."""

from __future__ import annotations

from dataclasses import dataclass

from seqsetvae.settings.declare import argument
from seqsetvae.settings.groups import (
    DataSettings,
    FinetunedSettings,
    LoaderSettings,
    OutputSettings,
    RunSettings,
    SplitSettings,
)
from seqsetvae.settings.kinds import BOOLEAN, Several, choice, integer

HELP = "write the probability of every stay to a file; labels are not needed"
NEEDS = ("ckpt", "output")
BODY = "seqsetvae.runs.predict"
SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What prediction reads."""

    finetuned: FinetunedSettings
    split: SplitSettings
    output: OutputSettings
    schema: str = argument(
        choice("table", "meds"),
        "predict: table: stay_id, split, logit, probability, calibrated_probability, label, reason; meds: the "
        "prediction schema of MEDS (meds-evaluation), as .parquet",
        default="table",
    )
    every_set: bool = argument(
        BOOLEAN,
        "predict: one row for each set of each stay (stay_id, set_index, minute, logit, probability): the risk from "
        "the events up to this set; the head was trained on whole stays only",
        default=False,
    )
    explain: tuple[int, ...] | None = argument(
        Several(integer(-(2**63), 2**63 - 1)),
        "predict: ids of stays; one row for each of their events with its contribution to the logit (integrated "
        "gradients over the values, from the training means; needs captum; slow: hundreds of passes for a stay)",
    )
    data: DataSettings
    loader: LoaderSettings
    run: RunSettings


def problems(settings: Settings) -> list[str]:
    """One checkpoint; the output must be a new file in a folder that exists."""
    is_meds = settings.schema == "meds"
    rules = [
        (
            is_meds and settings.every_set,
            "every_set: received together with --schema meds; allowed: one of them",
        ),
        (
            settings.explain is not None and (settings.every_set or is_meds),
            "explain: received together with --every_set or --schema meds; allowed: one of them",
        ),
    ]
    found = settings.finetuned.problems_of_one("predict") + [problem for wrong, problem in rules if wrong]
    return found + settings.output.problems_of_new_file(*((".parquet",) if is_meds else SUFFIXES))
