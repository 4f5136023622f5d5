"""What came of a run, and what to try where it looks wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqsetvae.training.watch import Row

FIRST_EPOCHS = 5  # in which users expect
EXPECTED_AUC, EXPECTED_AUPRC = 0.70, 0.30  # of in-hospital death
MUCH_WAITING = 0.2  # share of training time spent waiting for data from which on the loader is the bottleneck


@dataclass(frozen=True)
class Summary:
    """The figures of a run; `str()` is what the user reads."""

    run: str
    best_val_auc: float
    val_auprc_at_best: float
    best_epoch: int
    best_stage: int
    best_by_stage: dict[str, float]  # best val_auc of each stage: frozen ("1"), unfrozen ("2")
    epochs: int
    seconds: float
    stays_per_second: dict[str, float]  # training, by stage
    waiting: float
    trained: dict[str, dict[str, int]]  # values that trained, by stage and part
    device_use: str
    advice: list[str]

    def __str__(self) -> str:
        speeds = ", ".join(f"stage {stage}: {speed:,.0f}" for stage, speed in self.stays_per_second.items())
        stages = ", ".join(f"stage {stage}: {auc:.4f}" for stage, auc in self.best_by_stage.items())
        parts = "; ".join(f"stage {stage}: " + ", ".join(f"{part} {count:,}" for part, count in counts.items())
                          for stage, counts in self.trained.items())
        lines = [
            f"Best val_auc {self.best_val_auc:.4f}, val_auprc {self.val_auprc_at_best:.4f}, at epoch {self.best_epoch} "
            f"(stage {self.best_stage})",
            f"  best val_auc by stage   {stages}",
            f"  training stays/s        {speeds}",
            f"  waiting for data        {self.waiting:.1%} of the training time",
            f"  values trained          {parts}",
            f"  device                  {self.device_use}",
            f"  time                    {self.epochs} epochs in {self.seconds:,.0f} s",
            f"  run folder              {self.run}",
        ]
        return "\n".join(lines + [f"⚠️  {line}" for line in self.advice])


def summarize(rows: list[Row], trained: dict[int, dict[str, int]], device_use: str, seconds: float, run: Path
              ) -> Summary:
    """The summary of a run from its table of validations."""
    best = max(rows, key=lambda row: row.val_auc)
    by_stage = {stage: [row for row in rows if row.stage == stage] for stage in trained}
    return Summary(
        run=str(run), best_val_auc=best.val_auc, val_auprc_at_best=best.val_auprc, best_epoch=best.epoch,
        best_stage=best.stage,
        best_by_stage={str(stage): max(row.val_auc for row in own) for stage, own in by_stage.items()},
        epochs=rows[-1].epoch, seconds=seconds,
        stays_per_second={str(stage): _stays_per_second(own) for stage, own in by_stage.items()},
        waiting=_waiting(rows), trained={str(stage): parts for stage, parts in trained.items()},
        device_use=device_use, advice=advice(rows),
    )


def _stays_per_second(rows: list[Row]) -> float:
    return sum(row.stays_per_second * row.seconds for row in rows) / sum(row.seconds for row in rows)


def _waiting(rows: list[Row]) -> float:
    return sum(row.waiting * row.seconds for row in rows) / sum(row.seconds for row in rows)


def advice(rows: list[Row]) -> list[str]:
    """What a careful colleague would say of these validations; nothing when all is as expected."""
    first = rows[:FIRST_EPOCHS]
    auc, auprc = max(row.val_auc for row in first), max(row.val_auprc for row in first)
    lines = []
    if auc < EXPECTED_AUC or auprc < EXPECTED_AUPRC:
        lines.append(
            f"In the first {len(first)} epochs val_auc reached {auc:.3f} and val_auprc {auprc:.3f}; for in-hospital death "
            f"{EXPECTED_AUC:.2f} and {EXPECTED_AUPRC:.2f} are usual. Check that the loading table above shows the whole "
            "backbone, that stats.csv and cached.csv are those of the pretraining, and the labels (python data.py check).")
    if len(first) > 2 and auc <= first[0].val_auc:
        lines.append("val_auc did not rise after the first epoch: try a lower cls_head_lr, or unfreeze_after = 1.")
    if _waiting(rows) > MUCH_WAITING:
        lines.append(f"Training waited for data {_waiting(rows):.0%} of the time: try --num_workers 2 and a larger "
                     "--batch_size, and put the data on a local disk.")
    return lines
