"""A head trained for EPOCHS epochs on a frozen backbone: read once, found again, or read in every step as before.

Sizes are those used in practice with random weights; the head and its settings are the default config's. Each way has
a process of its own. The last is measured over one epoch and multiplied, as its figure says.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.measure import Figure, isolated
from benchmarks.works import PRACTICE, fine_tuner, first, open_stays, random_embeddings
from model_optimized import SeqSetVAEFineTuner
from seqsetvae.cohort import open_cohort
from seqsetvae.loading import CohortDataModule
from seqsetvae.modes.finetune import METRICS, PRINTED
from seqsetvae.settings.groups import FinetuningSchedule
from seqsetvae.training.callbacks import MetricsTable
from seqsetvae.training.feature_cache import cached_features
from seqsetvae.training.precision import Precision
from seqsetvae.training.run_folder import RunFolder
from seqsetvae.training.schedule import VAL_AUC
from seqsetvae.training.stages import Run

EPOCHS = 20
WANTED = 15.0  # times faster than reading the backbone in every step
SYNTHETIC_STAYS = 400


def frozen(data_dir: Path | None, scratch: Path, n_stays: int | None = None) -> list[Figure]:
    """Figures of all stays of a cohort, or of `n_stays` of each split; synthetic ones without `data_dir`."""
    note = "" if data_dir else "synthetic"
    scratch = scratch / "frozen"
    data_dir = open_stays(data_dir, scratch, SYNTHETIC_STAYS).path
    once, again = (isolated(cached, data_dir, scratch, n_stays, name, note) for name in ("read once", "found again"))
    (plain,) = isolated(uncached, data_dir, scratch, n_stays, note)
    baseline = f"{EPOCHS} × one epoch with the backbone read in every step"
    runs = [
        replace(run, baseline=plain.value, baseline_is=baseline, ratio=plain.value / run.value, wanted=WANTED)
        for run in (once[0], again[0])
    ]
    return [*runs, *again[1:], plain]


def cached(data_dir: Path, scratch: Path, n_stays: int | None, name: str, note: str) -> list[Figure]:
    """A whole run with kept features: the first call in a scratch folder reads the backbone, the next one finds them.

    Two figures: the run, and one epoch of it.
    """
    run = _run(data_dir, scratch, n_stays, EPOCHS)
    start = time.perf_counter()
    assert isinstance(run.module, SeqSetVAEFineTuner)
    features = cached_features(run.module, run.data, Precision(device=torch.device("cpu")), scratch / "features")
    reading = time.perf_counter() - start
    run.fit(1, EPOCHS, warm_up=False, features=features)
    seconds = time.perf_counter() - start
    assert bool(features.passes) == (name == "read once"), "the scratch folder is for one measurement alone"
    stays = sum(run.data.n_selected(split) for split in ("train", "valid"))
    found = f"{stays:,} stays; {reading:.1f} s before the first epoch"
    return [
        Figure(what=f"frozen run, {EPOCHS} epochs, {name}", value=seconds, unit="s", note=_said(note, found)),
        Figure(
            what="epoch of the head, validation included",
            value=1000 * (seconds - reading) / EPOCHS,
            unit="ms",
            note=_said(note, f"{stays:,} stays, batches of {run.data.batch_size}"),
        ),
    ]


def uncached(data_dir: Path, scratch: Path, n_stays: int | None, note: str) -> list[Figure]:
    """The same run with the backbone read in every step: one epoch, multiplied."""
    run = _run(data_dir, scratch, n_stays, 1)
    start = time.perf_counter()
    run.fit(1, 1, warm_up=False)
    (epoch,) = run.state.rows
    seconds = EPOCHS * (time.perf_counter() - start)
    measured = f"one epoch measured, × {EPOCHS}; {epoch.seconds:,.1f} s of the one in training steps"
    return [Figure(what="frozen run, backbone in every step", value=seconds, unit="s", note=_said(note, measured))]


def _said(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _run(data_dir: Path, scratch: Path, n_stays: int | None, epochs: int) -> Run:
    """A head on a frozen backbone at practice sizes, not yet started; no early stop."""
    torch.manual_seed(0)
    cohort = open_cohort(data_dir)
    if n_stays is not None:
        cohort = replace(cohort, splits={name: first(split, n_stays) for name, split in cohort.splits.items()})
    folder = RunFolder.create(scratch, "finetune")
    return Run(
        module=fine_tuner(PRACTICE, random_embeddings(cohort, PRACTICE)),
        data=CohortDataModule(cohort, batch_size=8, max_events=65536),
        folder=folder,
        table=MetricsTable(folder.path / "metrics.csv", folder.path / "tensorboard"),
        watched=VAL_AUC,
        schedule=FinetuningSchedule(
            max_epochs=epochs,
            unfreeze_after=None,
            warmup_steps=0,
            lr_factor=0.8,
            lr_patience=4,
            min_lr=1e-6,
            es_patience=epochs,
        ),
        metrics=METRICS,
        printed=PRINTED,
        parts=("head", "backbone"),
        trainer_options={"accelerator": "cpu", "devices": 1, "gradient_clip_val": 1.0},
    )
