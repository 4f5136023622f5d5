"""What came of a run, and what to try where it looks wrong."""

from __future__ import annotations

from dataclasses import dataclass

from seqsetvae.checkpoint import LoadReport
from seqsetvae.training.frozen import Reading
from seqsetvae.training.stages import Run
from seqsetvae.training.watch import Row

FIRST_EPOCHS = 5  # in which users expect
EXPECTED_AUC, EXPECTED_AUPRC = 0.70, 0.30  # of in-hospital death
FEW_ACTIVE = 0.1  # share of active dimensions below which the posterior has collapsed
MUCH_WAITING = 0.2  # share of training time spent waiting for data from which on the loader is the bottleneck


@dataclass(frozen=True)
class Summary:
    """The figures of a run; `str()` is what the user reads."""

    run: str
    watched: str
    best: dict[str, float]  # all metrics of the best validation
    best_epoch: int
    best_stage: int
    best_by_stage: dict[str, float]  # the watched metric; of fine-tuning, stage 1 is frozen and 2 is not
    epochs: int
    seconds: float
    stays_per_second: dict[str, float]  # training, by stage
    head_alone: list[str]  # stages that trained the head on what a frozen backbone had read before
    waiting: float | None  # share of the time in which the loop waited for data; None: none were read
    trained: dict[str, dict[str, int]]  # values that trained, by stage and part
    device_use: str
    advice: list[str]

    def __str__(self) -> str:
        speeds = ", ".join(
            f"stage {stage}: {speed:,.0f}{' (head alone)' * (stage in self.head_alone)}"
            for stage, speed in self.stays_per_second.items()
        )
        stages = ", ".join(f"stage {stage}: {value:.4f}" for stage, value in self.best_by_stage.items())
        parts = "; ".join(
            f"stage {stage}: " + ", ".join(f"{part} {count:,}" for part, count in counts.items())
            for stage, counts in self.trained.items()
        )
        others = ", ".join(f"{name} {value:.4f}" for name, value in self.best.items() if name != self.watched)
        waiting = "no data were read" if self.waiting is None else f"{self.waiting:.1%} of the time"
        lines = [
            f"Best {self.watched} {self.best[self.watched]:.4f} at epoch {self.best_epoch} (stage {self.best_stage}): "
            f"{others}",
            f"  best {self.watched} by stage   {stages}",
            f"  training stays/s        {speeds}",
            f"  waiting for data        {waiting}",
            f"  values trained          {parts}",
            f"  device                  {self.device_use}",
            f"  time                    {self.epochs} epochs in {self.seconds:,.0f} s",
            f"  run folder              {self.run}",
        ]
        return "\n".join(lines + [f"⚠️  {line}" for line in self.advice])


def summarize(run: Run, device_use: str, seconds: float, advice: list[str]) -> Summary:
    """The summary of a run from its table of validations."""
    rows, metric = run.table.rows, run.watched.metric
    better = max if run.watched.mode == "max" else min
    best = better(rows, key=lambda row: row.metrics[metric])
    by_stage = {str(stage): [row for row in rows if row.stage == stage] for stage in run.trained}
    waiting = waiting_share(rows, run.read)
    return Summary(
        run=str(run.folder.path),
        watched=metric,
        best=best.metrics,
        best_epoch=best.epoch,
        best_stage=best.stage,
        best_by_stage={stage: better(row.metrics[metric] for row in own) for stage, own in by_stage.items()},
        epochs=rows[-1].epoch,
        seconds=seconds,
        stays_per_second={stage: _stays_per_second(own) for stage, own in by_stage.items()},
        head_alone=[stage for stage, own in by_stage.items() if own[0].waiting is None],
        waiting=waiting,
        trained={str(stage): parts for stage, parts in run.trained.items()},
        device_use=device_use,
        advice=advice + loading_advice(waiting, run.data.num_workers),
    )


def _stays_per_second(rows: list[Row]) -> float:
    return sum(row.stays_per_second * row.seconds for row in rows) / sum(row.seconds for row in rows)


def waiting_share(rows: list[Row], read: list[Reading]) -> float | None:
    """Share of the time spent waiting for data, over the epochs and the passes that read any; None if none did."""
    waits = [(row.waiting * row.seconds, row.seconds) for row in rows if row.waiting is not None]
    waits += [(reading.waiting, reading.seconds) for reading in read]
    if not waits:
        return None
    return sum(wait for wait, _ in waits) / sum(seconds for _, seconds in waits)


def loading_advice(waiting: float | None, num_workers: int) -> list[str]:
    """What to try where the loader is the bottleneck; nothing where it is not."""
    if waiting is None or waiting <= MUCH_WAITING:
        return []
    if num_workers > 0:
        return [
            f"Training waited for data {waiting:.0%} of the time with {num_workers} worker processes: pass "
            "--num_workers 0. Batches are index arithmetic here, and workers cost more than they save unless the disk "
            "is slow."
        ]
    return [
        f"Training waited for data {waiting:.0%} of the time: put the data on a local disk and try a larger "
        "--batch_size; worker processes (--num_workers) help only where the disk is slow."
    ]


def random_weights_advice(report: LoadReport | None) -> list[str]:
    """Says that figures come from a backbone that was random, in part or as a whole; nothing for a pretrained one."""
    if report is None:
        return ["Random backbone: nothing was pretrained (--from_random_weights)."]
    return partial_weights_advice(report)


def partial_weights_advice(report: LoadReport | None) -> list[str]:
    """Says that some weights of what was loaded were random; nothing where all or none were loaded."""
    n_random = 0 if report is None else len(report.missing) + len(report.mismatched)
    return [f"Partial backbone: {n_random} weights started random (--allow_partial_backbone)."] if n_random else []


def finetuning_advice(rows: list[Row]) -> list[str]:
    """What a careful colleague would say of the first epochs; nothing when all is as expected."""
    first = [row.metrics for row in rows[:FIRST_EPOCHS]]
    auc, auprc = max(row["val_auc"] for row in first), max(row["val_auprc"] for row in first)
    lines = []
    if auc < EXPECTED_AUC or auprc < EXPECTED_AUPRC:
        lines.append(
            f"In the first {len(first)} epochs val_auc reached {auc:.3f} and val_auprc {auprc:.3f}; for in-hospital "
            f"death {EXPECTED_AUC:.2f} and {EXPECTED_AUPRC:.2f} are usual. Check that the loading table above shows "
            "the whole backbone, that stats.csv and cached.csv are those of the pretraining, and the labels "
            "(python data.py check)."
        )
    if len(first) > 2 and auc <= first[0]["val_auc"]:
        lines.append("val_auc did not rise after the first epoch: try a lower cls_head_lr, or a lower unfreeze_after.")
    return lines


def pretraining_advice(rows: list[Row], latent_dim: int) -> list[str]:
    """A warning if the posterior has collapsed: dimensions that say nothing about their set (Burda et al., 2016)."""
    active = rows[-1].metrics["val_active_units"]
    if active >= FEW_ACTIVE * latent_dim:
        return []
    return [
        f"Posterior collapse: only {active:.0f} of {latent_dim} dimensions of mu vary between sets. Try a lower "
        "max_beta, a longer beta_warmup_steps, or more free_bits."
    ]
