"""Evaluate: metrics with intervals of fine-tuned checkpoints on one split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqsetvae.settings.declare import argument
from seqsetvae.settings.groups import (
    BaselineSettings,
    DataSettings,
    ExplainSettings,
    FinetunedSettings,
    LoaderSettings,
    OutputSettings,
    RunSettings,
    SplitSettings,
)
from seqsetvae.settings.kinds import Several, Values, choice, existing_path, exists, number, optional
from seqsetvae.tasks.decisions import ALLOWED, Need, need_of

HELP = "metrics of fine-tuned checkpoints on one split, with 95 % intervals"
NEEDS = ("ckpt", "split")
BODY = "seqsetvae.runs.evaluate"


@dataclass(frozen=True, kw_only=True)
class DetailSettings:
    """What is evaluated besides the whole split."""

    subgroups: Path | None = argument(
        optional(existing_path()),
        "evaluate: .csv or .parquet file with a column stay_id and others (age, sex, unit, ...), whose groups are "
        "evaluated too; a numeric column of more than 10 different values is cut into quartiles",
    )
    landmarks: tuple[float, ...] | None = argument(
        Several(number(0, above=True)),
        "evaluate: hours, such as 6 12 24 48; predictions from only the events of the first hours are evaluated too",
    )


@dataclass(frozen=True, kw_only=True)
class DecisionSettings:
    """How stays are called positive, chosen on the validation stays and kept with the run."""

    threshold_for: str | None = argument(
        optional(Values(ALLOWED, lambda received: str(need_of(received)), "NEED=X")),
        "evaluate: choose the threshold anew, on the validation split, and keep it in calibration.json, for evaluate "
        "and predict: youden (highest Youden index, as after training), sensitivity=0.8, specificity=0.9, ppv=0.3, "
        "alarms_per_day=3, or net_benefit=0.1 (a probability p: a true alarm is worth (1 - p) / p false ones)",
    )
    admissions_per_day: float | None = argument(
        optional(number(0, above=True)),
        "evaluate: admissions a day where the model is to be used (of a cohort with prediction times: predictions), so "
        "that --threshold_for can count alarms a day",
    )
    abstain: float | None = argument(
        optional(number(0, 0.5)),
        "evaluate: decide no stay that would have more than this share of a class, such as 0.1, called the other class "
        "(split conformal prediction on the validation split; kept in calibration.json, 0: decide every stay)",
    )

    @property
    def need(self) -> Need | None:
        """None: the threshold that the run has."""
        return None if self.threshold_for is None else need_of(self.threshold_for, self.admissions_per_day)

    def problems(self) -> list[str]:
        """Alarms a day need both."""
        of_alarms, per_day = (self.threshold_for or "").startswith("alarms_per_day"), self.admissions_per_day
        rules = [
            (
                of_alarms and per_day is None,
                f"threshold_for: received {self.threshold_for!r}; needs --admissions_per_day",
            ),
            (
                per_day is not None and self.threshold_for is None,
                f"admissions_per_day: received {per_day}; needs --threshold_for",
            ),
        ]
        return [problem for wrong, problem in rules if wrong]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What evaluation reads."""

    finetuned: FinetunedSettings
    split: SplitSettings
    output: OutputSettings
    details: DetailSettings
    decisions: DecisionSettings
    explained: ExplainSettings
    format: str = argument(choice("csv", "parquet"), "evaluate: file type of the predictions", default="csv")
    baselines: BaselineSettings
    data: DataSettings
    loader: LoaderSettings
    run: RunSettings


def problems(settings: Settings) -> list[str]:
    """The output must be a folder, new or existing."""
    output = settings.output.output
    if output is None or not exists(output) or output.is_dir():
        return []
    return [f"output: received {str(output)!r}, which is a file; allowed: an existing or new folder"]
