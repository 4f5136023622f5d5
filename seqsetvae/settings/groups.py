"""The settings that several modes share, a group for each part of the program that reads them.

Meaning, unit and reason of each setting are in finetune_config_optimized.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from seqsetvae.settings.declare import argument, given, setting
from seqsetvae.settings.kinds import (
    BOOLEAN,
    Several,
    choice,
    either,
    existing_path,
    exists,
    integer,
    name,
    number,
    optional,
    path,
    text,
)
from seqsetvae.system.files import not_writable


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the patients are, and which label and sets of theirs are used."""

    data_dir: Path | None = setting(optional(existing_path()))
    params_map_path: Path | None = setting(optional(existing_path()))
    label_path: Path | None = setting(optional(existing_path()))
    embeddings_path: Path | None = setting(optional(existing_path()))
    label_name: str | None = setting(optional(text()))
    skip_bad: bool = setting(BOOLEAN)
    max_sets: int | None = setting(optional(integer(1)))


@dataclass(frozen=True, kw_only=True)
class ValueSettings:
    """How a new model reads values; a checkpoint has its own."""

    value_transform: str | None = setting(optional(choice("z_score", "quantiles", "normal_scores")), default=None)
    value_clip: float | None = setting(optional(number(1)))
    min_count: int = setting(integer(0))
    given: Mapping[str, str] = given()

    def problems(self) -> list[str]:
        if self.value_transform not in (None, "z_score") and "value_clip" in self.given:
            return [f"value_clip: received {self.value_clip}; leave it out with value_transform {self.value_transform}"]
        return []


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """How stays are grouped into batches."""

    batch_size: int = setting(integer(1), default=8)
    max_events_per_batch: int = setting(integer(1), default=65536)
    num_workers: int = setting(integer(0, 256), default=0)
    given: Mapping[str, str] = given()


@dataclass(frozen=True, kw_only=True)
class PretrainedSettings:
    """Which pretrained checkpoint is loaded."""

    pretrained_ckpt: Path | None = argument(
        optional(existing_path()),
        {
            "": "pretrained checkpoint: a .ckpt or .safetensors file, or a run folder (checkpoints/best.ckpt is used)",
            "pretrain": "checkpoint to continue from: a .ckpt or .safetensors file, or a run folder",
        },
    )
    allow_partial_backbone: bool = argument(
        BOOLEAN,
        "continue if backbone weights are missing in the checkpoint or have another shape; those weights start random, "
        "and the run's config.json lists them",
        default=False,
    )


@dataclass(frozen=True, kw_only=True)
class FinetunedSettings:
    """Which fine-tuned checkpoints are used."""

    ckpt: tuple[Path, ...] | None = argument(
        Several(existing_path()),
        {
            "": "fine-tuned checkpoint: a run folder (its best.ckpt is used), a .ckpt file, or what export wrote",
            "evaluate": "fine-tuned checkpoints, the first compared with the others: run folders, .ckpt files, or "
            "what export wrote",
            "export": "fine-tuned or pretrained checkpoint: a run folder (checkpoints/best.ckpt is used) or a file",
        },
    )

    def problems_of_one(self, mode: str) -> list[str]:
        """Problems of a mode that reads one checkpoint."""
        count = len(self.ckpt or ())
        return [f"ckpt: received {count} checkpoints; allowed: one with --mode {mode}"] if count > 1 else []


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """Which stays a mode without training goes through."""

    split: str | None = argument(
        optional(choice("train", "valid", "test")),
        {"": "split of the data to use", "predict": "split of the data to use; all splits if not given"},
    )


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """Which calibration is applied."""

    calibration: str | None = argument(
        optional(name()),
        "the calibration that was fitted on other stays and saved under this name, instead of that of the training",
    )


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """Where a mode without training writes."""

    output: Path | None = argument(
        optional(path()),
        {
            "embed": "the .npz file to write, which may not exist yet",
            "predict": "the .csv or .parquet file to write, which may not exist yet",
            "evaluate": "folder for evaluation.json and predictions.csv, by default the run folder",
            "export": "the folder to write, which may not exist yet",
            "crossvalidate": "folder of the results, by default a new run folder; its finished folds are not repeated",
        },
    )

    def problems(self) -> list[str]:
        """An output that cannot be written, found before hours of work."""
        if self.output is None or (place := not_writable(self.output)) is None:
            return []
        return [f"output: received {str(self.output)!r}; allowed: a place that you may write to, which {place} is not"]

    def problems_of_new_file(self, *suffixes: str) -> list[str]:
        """What is wrong with it as the name of a new file with one of these suffixes."""
        if self.output is None:
            return []
        text, parent = f"output: received {str(self.output)!r}", self.output.parent
        rules = [
            (self.output.suffix not in suffixes, f"; allowed: a file name that ends in {' or '.join(suffixes)}"),
            (exists(self.output), ", which already exists; allowed: a new file"),
            (not (exists(parent) and parent.is_dir()), "; allowed: a file in an existing folder"),
        ]
        return [text + problem for wrong, problem in rules if wrong]


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """The classification head."""

    head_pooling: str = setting(choice("last", "mean", "last_mean"))
    head_hidden: int = setting(integer(1, 65536), default=128)
    head_dropout: float = setting(number(0, 0.9), default=0.1)
    head_members: int = setting(integer(1, 1024), default=1)


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The loss of fine-tuning."""

    loss: str = setting(choice("cross_entropy", "focal"))
    class_weight: str | float = setting(either(choice("none", "balanced"), number(0, above=True)))
    label_smoothing: float = setting(number(0, 0.9))
    focal_gamma: float = setting(number(0))
    focal_alpha: float | None = setting(optional(number(0, 1)))

    def problems(self) -> list[str]:
        rules = [
            (
                self.label_smoothing > 0,
                f"label_smoothing: received {self.label_smoothing}; allowed: 0 with --loss focal",
            ),
            (
                self.class_weight != "none",
                f"class_weight: received {self.class_weight!r}; allowed: none with --loss focal, whose class weight is "
                "--focal_alpha",
            ),
        ]
        return [problem for wrong, problem in rules if wrong and self.loss == "focal"]


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """What an optimizer step is."""

    weight_decay: float = setting(number(0), default=0.01)
    gradient_clip_val: float = setting(number(0, above=True))
    gradient_accumulation_steps: int = setting(integer(1))


@dataclass(frozen=True, kw_only=True)
class FinetuningRates:
    """Learning rates of fine-tuning."""

    lr: float = setting(number(0, above=True), default=5e-5)
    cls_head_lr: float = setting(number(0, above=True), default=3e-4)


@dataclass(frozen=True, kw_only=True)
class PretrainingRate:
    """Learning rate of pretraining."""

    pretrain_lr: float = setting(number(0, above=True))


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How long a run trains, and the limits of its learning rates; patience counts validations."""

    max_epochs: int = setting(integer(1), default=20)
    warmup_steps: int = setting(integer(0), default=100)
    min_lr: float = setting(number(0))
    es_patience: int = setting(integer(1))
    save_every_minutes: float = setting(number(0), default=10.0)


@dataclass(frozen=True, kw_only=True)
class FinetuningSchedule(ScheduleSettings):
    """How long each stage of fine-tuning trains, and when its learning rates are reduced."""

    unfreeze_after: int | None = setting(optional(integer(0)), default=1)
    lr_schedule: str = setting(choice("plateau", "cosine"), default="plateau")
    keep: str = setting(choice("best", "last"), default="best")
    ema_decay: float | None = setting(optional(number(0, 0.99999)), default=None)
    lr_factor: float = setting(number(0, 0.999, above=True))
    lr_patience: int = setting(integer(0))
    given: Mapping[str, str] = given()

    def problems(self) -> list[str]:
        least = self.lr_patience + 1  # validations after which the learning rates are reduced
        if self.es_patience > least:
            return []
        return [
            f"es_patience: received {self.es_patience}; allowed: more than lr_patience + 1 (= {least}); otherwise "
            "training stops before a reduced learning rate has been tried"
        ]


@dataclass(frozen=True, kw_only=True)
class TreeSettings:
    """Boosted trees and a linear model beside the network: their log-odds are averaged."""

    tree_models: int = setting(integer(0, 1000), default=0)
    average: str = setting(choice("folds", "fixed", "network", "trees"), default="fixed")

    @property
    def beside_network(self) -> bool:
        """Whether the network has other models beside it."""
        return self.tree_models > 0 and self.average != "network"


TRACKERS = {"wandb": "wandb", "mlflow": "mlflow-skinny"}  # what to install for each


@dataclass(frozen=True, kw_only=True)
class LoggerSettings:
    """Experiment trackers of a run, besides metrics.csv and TensorBoard."""

    loggers: tuple[str, ...] | None = setting(Several(choice(*TRACKERS)), default=None)

    def problems(self) -> list[str]:
        """Trackers whose package is not installed."""
        missing = [name for name in self.loggers or () if find_spec(name) is None]
        return [f"loggers: {name} is not installed: pip install {TRACKERS[name]}" for name in missing]


@dataclass(frozen=True, kw_only=True)
class BaselineSettings:
    """Which other models are shown beside the evaluated one."""

    baselines: str = argument(
        choice("all", "none"),
        "all (default: boosted trees and logistic regression on summaries of each variable, trained on the same "
        "training stays; evaluate adds the prevalence) or none",
        default="all",
    )


@dataclass(frozen=True, kw_only=True)
class ExplainSettings:
    """Which stays are explained."""

    explain: tuple[int, ...] | None = argument(
        Several(integer(-(2**63), 2**63 - 1), may_be_empty=True),
        {
            "predict": "ids of stays; a row for each of their summaries (SeqSetVAE: events) with its contribution to "
            "the score, such as log-odds",
            "": "contributions of the variables to the scores of the split, and over the course of these "
            "stays, or without ids of the three highest scores with and without the label",
        },
    )


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Output, random seed, device and precision."""

    output_root_dir: Path = setting(path())
    seed: int = setting(integer(0, 2**32 - 1))
    accelerator: str = setting(choice("auto", "cpu", "gpu"))
    devices: int = setting(integer(1))
    num_nodes: int = setting(integer(1), default=1)
    strategy: str = setting(choice("auto", "ddp", _ddp_find_unused_parameters_true="ddp"))
    precision: str = setting(
        choice(
            "32-true",
            "bf16-mixed",
            "16-mixed",
            "64-true",
            _32="32-true",
            _16="16-mixed",
            _bf16="bf16-mixed",
            _64="64-true",
        )
    )
    deterministic: bool = setting(BOOLEAN)
    compile_model: bool = setting(BOOLEAN)

    def problems(self) -> list[str]:
        rules = [
            (
                exists(self.output_root_dir) and not self.output_root_dir.is_dir(),
                f"output_root_dir: received {str(self.output_root_dir)!r}, which is a file; allowed: an existing or "
                "new folder",
            ),
            (
                not _is_text(self.output_root_dir),
                f"output_root_dir: received {str(self.output_root_dir)!r}; allowed: a path in UTF-8, which TensorBoard "
                "can write to",
            ),
        ]
        return [problem for wrong, problem in rules if wrong]


def _is_text(path: Path) -> bool:
    """Whether a path is text; on Linux it may be any bytes, which Python keeps as surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in str(path.absolute()))


def min_lr_problems(schedule: ScheduleSettings, *rates: FinetuningRates | PretrainingRate) -> list[str]:
    """min_lr is the lower limit of these learning rates, so none of them may start below it."""
    values = {name: rate for group in rates for name, rate in vars(group).items()}
    if schedule.min_lr <= min(values.values()):
        return []
    listed = " and ".join(f"{name} ({rate:g})" for name, rate in values.items())
    return [f"min_lr: received {schedule.min_lr:g}; allowed: at most {listed}"]
