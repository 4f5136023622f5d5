"""The summary of a run, and advice where a result looks wrong."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seqsetvae.checkpoint.backbone import LoadReport
from seqsetvae.cohort import Split
from seqsetvae.training.callbacks import COUNTS
from seqsetvae.training.feature_pass import FeaturePass
from seqsetvae.training.run_folder import Row, best_row
from seqsetvae.training.schedule import Watched
from seqsetvae.training.stages import Run

LINE_WIDTH = 80  # columns of the printed summary
STANDARD_ERRORS = 2.0  # distance from chance below which an AUROC is not told apart from it (95 % two-sided)
MUCH_WAITING = 0.2  # share of training time spent waiting for data from which on the loader is the bottleneck


@dataclass(frozen=True)
class Summary:
    """The results of a run; `str()` is what the user reads."""

    run: str
    watched: str
    kept: str  # what best.ckpt holds: "best" validation, or "last", where nothing is selected
    best: dict[str, float]  # all metrics of the best validation
    best_epoch: int
    best_stage: int
    best_by_stage: dict[str, float]  # the watched metric; of fine-tuning, stage 1 is frozen and 2 is not
    epochs: int
    seconds: float
    stays_per_second: dict[str, float]  # training, by stage
    head_alone: list[str]  # stages that trained the head on cached features
    waiting: float | None  # share of the time spent waiting for data; None: only cached features were used
    trained: dict[str, dict[str, int]]  # values that trained, by stage and part
    device_use: str
    against_chance: list[str]  # of fine-tuning: val_auc and val_auprc compared with a random ranking
    advice: list[str]

    def __str__(self) -> str:
        first = "Last" if self.kept == "last" else "Best"
        lines = [f"{first} {self.watched} {self.best[self.watched]:.4f} at epoch {self.best_epoch} of {self.epochs}"]
        for name, items in self._facts():
            lines += _fold(f"  {name.ljust(22)}", items)
        for line in self.advice:
            lines += textwrap.wrap(f"⚠️  {line}", LINE_WIDTH, subsequent_indent="   ", break_long_words=False)
        return "\n".join(lines)

    def _facts(self) -> list[tuple[str, list[str]]]:
        """Names and values; a line may end between two values."""
        several = len(self.best_by_stage) > 1
        others = {name: value for name, value in self.best.items() if name != self.watched}
        stages = [f"stage {stage}: {value:.4f}" for stage, value in self.best_by_stage.items()]
        speeds = [
            f"{f'stage {stage}: ' * several}{speed:,.0f}{' (head alone)' * (stage in self.head_alone)}"
            for stage, speed in self.stays_per_second.items()
        ]
        parts = [
            f"{f'stage {stage}: ' * several}{part} {count:,}"
            for stage, counts in self.trained.items()
            for part, count in counts.items()
        ]
        facts = [
            ("at that epoch", [f"{name} {value:.{0 if name in COUNTS else 4}f}" for name, value in others.items()])
        ]
        facts += [(f"best {self.watched}", stages)] if several else []
        facts += [("compared with chance", self.against_chance)] if self.against_chance else []
        return [
            *facts,
            ("training stays/s", speeds),
            ("waiting for data", ["no data were read" if self.waiting is None else f"{self.waiting:.1%} of the time"]),
            ("values trained", parts),
            ("device", [self.device_use]),
            ("time", [f"{self.seconds:,.0f} s"]),
            ("run folder", [self.run]),
        ]


def _fold(start: str, items: list[str]) -> list[str]:
    """`start` and the items, separated by commas, in lines of at most LINE_WIDTH unless one item alone is longer."""
    unbroken = ", ".join(item.replace(" ", "\0") for item in items)  # a line ends only between items
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": " " * 26}
    lines = textwrap.wrap(unbroken, LINE_WIDTH, initial_indent=f"{start}  ", **options)
    return [line.replace("\0", " ") for line in lines] or [start.rstrip()]


def summarize(run: Run, device_use: str, seconds: float, advice: list[str]) -> Summary:
    """The summary of a run from its table of validations."""
    rows, watched = list(run.state.rows), run.watched
    best = best_row(rows, watched)
    by_stage = {str(stage): [row for row in rows if row.stage == stage] for stage in run.state.trained}
    waiting = waiting_share(rows, run.state.passes)
    return Summary(
        run=str(run.folder.path),
        watched=watched.metric,
        kept="last" if watched.keep_last else "best",
        best=best.metrics,
        best_epoch=best.epoch,
        best_stage=best.stage,
        best_by_stage={stage: best_row(own, watched).metrics[watched.metric] for stage, own in by_stage.items()},
        epochs=rows[-1].epoch,
        seconds=seconds,
        stays_per_second={stage: _stays_per_second(own) for stage, own in by_stage.items()},
        head_alone=[stage for stage, own in by_stage.items() if own[0].waiting is None],
        waiting=waiting,
        trained={str(stage): parts for stage, parts in run.state.trained.items()},
        device_use=device_use,
        against_chance=against_chance(best, run.data.cohort.split("valid")),
        advice=advice
        + length_advice(rows, watched, run.schedule.max_epochs)
        + loading_advice(waiting, run.data.num_workers, run.data.prepares),
    )


def _stays_per_second(rows: list[Row]) -> float:
    return sum(row.stays_per_second * row.seconds for row in rows) / sum(row.seconds for row in rows)


def waiting_share(rows: list[Row], passes: Sequence[FeaturePass]) -> float | None:
    """Share of the time spent waiting for data, over the epochs and the passes that read any; None if none did."""
    waits = [(row.waiting * row.seconds, row.seconds) for row in rows if row.waiting is not None]
    waits += [(feature_pass.waiting, feature_pass.seconds) for feature_pass in passes]
    return sum(wait for wait, _ in waits) / sum(seconds for _, seconds in waits) if waits else None


def loading_advice(waiting: float | None, num_workers: int, prepares: bool = False) -> list[str]:
    """What to try where the loader is the bottleneck; nothing if it `prepares` a part of the model."""
    if waiting is None or waiting <= MUCH_WAITING or prepares:
        return []
    remedy = (
        f" with {num_workers} worker processes: pass --num_workers 0. Batches are index arithmetic here, and workers "
        "cost more than they save unless the disk is slow."
        if num_workers
        else ": put the data on a local disk and try a larger --batch_size; worker processes (--num_workers) help only "
        "where the disk is slow."
    )
    return [f"Training waited for data {waiting:.0%} of the time{remedy}"]


def random_weights_advice(report: LoadReport | None) -> list[str]:
    """A reminder that the backbone was random, in part or as a whole."""
    if report is None:
        return ["Random backbone: nothing was pretrained (--from_random_weights)."]
    return partial_weights_advice(report)


def partial_weights_advice(report: LoadReport | None) -> list[str]:
    """A reminder that some weights of the checkpoint were missing, or random in the file."""
    if report is None:
        return []
    n_random = len(report.missing) + len(report.mismatched)
    partial = f"Partial backbone: {n_random} weights started random (--allow_partial_backbone)."
    return [partial] * bool(n_random) + random_in_file_advice(report)


def random_in_file_advice(report: LoadReport) -> list[str]:
    """A reminder that some weights were random in the checkpoint."""
    names = ", ".join(report.random_in_file[:3]) + ", ..." * (len(report.random_in_file) > 3)
    line = f"Random weights in the checkpoint, of the old scripts: {names}. Use the original pretrained checkpoint."
    return [line] * bool(report.random_in_file)


def length_advice(rows: list[Row], watched: Watched, max_epochs: int) -> list[str]:
    """What to try where a run ended while it still improved."""
    if watched.keep_last or rows[-1].epoch < max_epochs or best_row(rows, watched) is not rows[-1]:
        return []
    return [
        f"The best epoch is the last one ({max_epochs} of {max_epochs}), so {watched.metric} may not have reached its "
        "best: train longer (--max_epochs)."
    ]


def auroc_standard_error(auroc: float, positives: int, negatives: int) -> float:
    """Standard error of an AUROC (Hanley & McNeil, 1982, equation 2).

    >>> round(auroc_standard_error(0.8, 50, 50), 3)
    0.045
    """
    q1, q2 = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc) + (positives - 1) * (q1 - auroc**2) + (negatives - 1) * (q2 - auroc**2)
    return math.sqrt(variance / (positives * negatives))


def _counts(split: Split) -> tuple[int, int]:
    """Stays with the outcome and without it, of those that have a label."""
    return int((split.label == 1).sum()), int((split.label == 0).sum())


def against_chance(best: Row, valid: Split) -> list[str]:
    """val_auc with its standard error, and val_auprc beside the prevalence, which a random ranking reaches.

    No lines unless the task is one binary label: others have their baselines in the evaluation.
    """
    if "val_auc" not in best.metrics or getattr(valid, "target", None) is not None:
        return []
    positives, negatives = _counts(valid)
    auc, auprc = best.metrics["val_auc"], best.metrics["val_auprc"]
    return [
        f"val_auc {auc:.3f} (standard error {auroc_standard_error(auc, positives, negatives):.3f}; chance 0.5)",
        f"val_auprc {auprc:.3f} (chance {positives / (positives + negatives):.3f}, the prevalence)",
    ]


def finetuning_advice(rows: list[Row], watched: Watched, valid: Split) -> list[str]:
    """What to look at if the best validation is not better than chance, or if training only made it worse."""
    best = best_row(rows, watched)
    advice = _chance_advice(best, *_counts(valid))
    if len(rows) > 2 and best is rows[0]:
        advice.append(
            f"val_auc was best after the first of {len(rows)} epochs and never rose again: try a lower cls_head_lr, or "
            "a lower unfreeze_after."
        )
    return advice


def _chance_advice(best: Row, positives: int, negatives: int) -> list[str]:
    auc, auprc = best.metrics["val_auc"], best.metrics["val_auprc"]
    error = auroc_standard_error(0.5, positives, negatives)
    prevalence = positives / (positives + negatives)
    stays = f"{positives:,} of {positives + negatives:,} validation stays are positive"
    if auc - 0.5 < STANDARD_ERRORS * error:
        finding = (
            f"The best val_auc {auc:.3f} is not clearly above chance: {stays}, so at 0.5 its standard error is "
            f"{error:.3f} (Hanley & McNeil, 1982)."
        )
    elif auprc <= prevalence:
        finding = (
            f"val_auprc {auprc:.3f} at the best epoch is not above the prevalence {prevalence:.3f}, which a random "
            f"ranking reaches ({stays})."
        )
    else:
        return []
    return [
        f"{finding} Check the labels (python data.py check). If the backbone is pretrained, check that the table "
        "of loaded weights lists no missing ones, and that stats.csv and cached.csv are those of its training."
    ]
