"""Predict: the probability of every stay, labelled or not, as a table."""

from __future__ import annotations

from dataclasses import dataclass

from seqsetvae.settings.declare import argument
from seqsetvae.settings.groups import (
    CalibrationSettings,
    DataSettings,
    ExplainSettings,
    FinetunedSettings,
    LoaderSettings,
    OutputSettings,
    RunSettings,
    SplitSettings,
)
from seqsetvae.settings.kinds import BOOLEAN, choice, integer

HELP = "write the probability of every stay to a file; labels are not needed"
NEEDS = ("ckpt", "output")
BODY = "seqsetvae.runs.predict"
SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What prediction reads."""

    finetuned: FinetunedSettings
    calibration: CalibrationSettings
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
    explained: ExplainSettings
    reasons: int = argument(
        integer(0, 20),
        "predict: so many columns more, with the variables that contribute most to the score of each stay, in words "
        "(SeqSetVAE: slow, hundreds of passes for a stay)",
        default=0,
    )
    data: DataSettings
    loader: LoaderSettings
    run: RunSettings


def problems(settings: Settings) -> list[str]:
    """One checkpoint; the output must be a new file in a folder that exists."""
    is_meds, explain = settings.schema == "meds", settings.explained.explain
    other = settings.every_set or is_meds
    rules = [
        (
            is_meds and settings.every_set,
            "every_set: received together with --schema meds; allowed: one of them",
        ),
        (
            explain is not None and other,
            "explain: received together with --every_set or --schema meds; allowed: one of them",
        ),
        (
            settings.reasons > 0 and (other or explain is not None),
            "reasons: received together with --every_set, --schema meds or --explain; allowed: one of them",
        ),
        (explain == (), "explain: received no stay; allowed: ids of stays"),
        (
            explain is not None and settings.calibration.calibration is not None,
            "calibration: received together with --explain, whose contributions are to the score before calibration; "
            "allowed: one of them",
        ),
    ]
    broken_rules = settings.finetuned.problems_of_one("predict") + [problem for wrong, problem in rules if wrong]
    return broken_rules + settings.output.problems_of_new_file(*((".parquet",) if is_meds else SUFFIXES))
