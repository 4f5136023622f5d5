"""Evaluate: metrics with intervals of fine-tuned checkpoints on one split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqsetvae.settings.declare import argument
from seqsetvae.settings.groups import (
    BaselineSettings,
    CalibrationSettings,
    DataSettings,
    ExplainSettings,
    FinetunedSettings,
    LoaderSettings,
    OutputSettings,
    RunSettings,
    SplitSettings,
)
from seqsetvae.settings.kinds import (
    Several,
    Values,
    choice,
    existing_path,
    exists,
    integer,
    name,
    number,
    optional,
    text,
)
from seqsetvae.tasks.decisions import ALLOWED, Need, need_of

HELP = "metrics of fine-tuned checkpoints on one split, or on other cohorts (--external), with 95 % intervals"
NEEDS = ("ckpt",)
BODY = "seqsetvae.runs.evaluate"


@dataclass(frozen=True, kw_only=True)
class DetailSettings:
    """What is evaluated besides the whole split."""

    subgroups: Path | None = argument(
        optional(existing_path()),
        "evaluate: .csv or .parquet file with a column stay_id and others (age, sex, unit, ...), whose groups are "
        "evaluated too; a numeric column of more than 10 different values is cut into quartiles",
    )
    smallest_group: int = argument(
        integer(0),
        "evaluate: subgroups of fewer stays, positives or negatives are not shown, nor others from which they would "
        "follow (0: all are shown)",
        default=10,
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
        received = f"threshold_for: received {self.threshold_for!r}"
        rules = [
            (
                of_alarms and per_day is None,
                f"{received}; needs --admissions_per_day of the unit where the model is to be used, which the data do "
                "not say",
            ),
            (
                of_alarms and per_day is not None and need_of(self.threshold_for).value >= per_day,
                f"{received}, with --admissions_per_day {per_day}: there are never more alarms, since each stay has "
                "one prediction; allowed: fewer",
            ),
            (
                per_day is not None and self.threshold_for is None,
                f"admissions_per_day: received {per_day}; needs --threshold_for",
            ),
        ]
        return [problem for wrong, problem in rules if wrong]


@dataclass(frozen=True, kw_only=True)
class ExternalSettings:
    """Cohorts from elsewhere, and what is fitted anew on them."""

    external: tuple[Path, ...] | None = argument(
        Several(existing_path()),
        "evaluate: data of other hospitals or years, all of whose stays are evaluated: coverage of the model's "
        "variables, drift, metrics, calibration before and after it is fitted anew; with --split beside that split of "
        "the model's own data, without it alone",
    )
    recalibrate_fraction: float = argument(
        number(0, 0.9),
        "evaluate: share of the patients of --external, drawn by --seed, that calibration is fitted anew on; it is "
        "reported on the others (0: not fitted)",
        default=0.3,
    )
    save_calibration: str | None = argument(
        optional(name()),
        "evaluate: keep the calibration that was fitted anew on the one cohort of --external, beside the checkpoint, "
        "under this name, for --calibration",
    )
    by: str | None = argument(
        optional(text()),
        "evaluate: column of the sites of --external, such as hospital, in --subgroups (by stay_id) or in "
        "samples.parquet of the cohort; each site is evaluated, and how much they differ",
    )

    def problems(self) -> list[str]:
        """The others need --external."""
        given = {"save_calibration": self.save_calibration, "by": self.by}
        return [
            f"{flag}: received {value!r}; needs --external"
            for flag, value in given.items()
            if value is not None and not self.external
        ]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What evaluation reads."""

    finetuned: FinetunedSettings
    calibration: CalibrationSettings
    split: SplitSettings
    external: ExternalSettings
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
    """The output must be a folder, new or existing; what is evaluated must be told apart."""
    output, split, details = settings.output.output, settings.split.split, settings.details
    cohorts, named = settings.external.external or (), settings.calibration.calibration
    decides = settings.decisions.threshold_for is not None or settings.decisions.abstain is not None
    ckpts = settings.finetuned.ckpt or ()
    several_ckpts = len(ckpts) > 1
    rules = [
        (
            output is not None and exists(output) and not output.is_dir(),
            f"output: received {str(output)!r}, which is a file; allowed: an existing or new folder",
        ),
        (
            split is None and not cohorts,
            "split: not given; --mode evaluate needs --split (or --external, other data)",
        ),
        (
            split is None and bool(cohorts) and output is None,
            "output: not given; --external without --split needs a folder for its results, so that those of the run on "
            "its own data stay",
        ),
        (
            split is None
            and bool(cohorts)
            and (details.landmarks is not None or settings.explained.explain is not None),
            "landmarks, explain: they are of one split; allowed: with --split (of other data: with --data_dir)",
        ),
        (
            len({ckpt.resolve() for ckpt in ckpts}) < len(ckpts),
            "ckpt: received a checkpoint twice; allowed: each once, because they are compared",
        ),
        (
            bool(cohorts) and several_ckpts,
            "ckpt: received several checkpoints; allowed: one with --external",
        ),
        (named is not None and several_ckpts, "calibration: it is of one checkpoint; allowed: one --ckpt with it"),
        (
            decides and (named is not None or split is None),
            "threshold_for, abstain: chosen on the validation stays for the calibration of the training; allowed: with "
            "--split, without --calibration",
        ),
        (
            bool(cohorts) and details.subgroups is not None and (split is not None or len(cohorts) > 1),
            "subgroups: its stays are those of one cohort; allowed: one --external without --split, or no --external",
        ),
        (
            bool(cohorts) and details.subgroups is not None and settings.external.by is None,
            "subgroups: received without --by, which names its column of the sites",
        ),
        (
            settings.external.save_calibration is not None and len(cohorts) > 1,
            "save_calibration: it is fitted on one cohort; allowed: one --external",
        ),
        (
            settings.external.save_calibration is not None and settings.external.recalibrate_fraction == 0,
            "save_calibration: received together with --recalibrate_fraction 0, which fits nothing",
        ),
    ]
    return [problem for wrong, problem in rules if wrong]
