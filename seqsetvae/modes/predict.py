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
from seqsetvae.settings.kinds import BOOLEAN, Several, choice, exists, integer

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
    output, ckpt = settings.output.output, settings.finetuned.ckpt or ()
    rules = [
        (len(ckpt) > 1, f"ckpt: received {len(ckpt)} checkpoints; allowed: one with --mode predict"),
        (
            settings.schema == "meds" and settings.every_set,
            "every_set: received together with --schema meds; allowed: one of them",
        ),
        (
            settings.explain is not None and (settings.every_set or settings.schema == "meds"),
            "explain: received together with --every_set or --schema meds; allowed: one of them",
        ),
    ]
    if output is not None:
        text = f"output: received {str(output)!r}"
        allowed = (".parquet",) if settings.schema == "meds" else SUFFIXES
        rules += [
            (output.suffix not in allowed, f"{text}; allowed: a file name that ends in {' or '.join(allowed)}"),
            (exists(output), f"{text}, which already exists; allowed: a new file"),
            (not (exists(output.parent) and output.parent.is_dir()), f"{text}; allowed: a file in an existing folder"),
        ]
    return [problem for wrong, problem in rules if wrong]
