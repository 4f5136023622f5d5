"""A head trained for EPOCHS epochs on a frozen backbone, with cached features and with the backbone in every step.

Sizes are those used in practice with random weights; the head and its settings are the default config's. Each way has
a process of its own. The last is measured over one epoch and multiplied, which its note states.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from benchmarks.measure import Measurement, isolated, with_note
from benchmarks.workloads import PRACTICE, fine_tuner, open_stays, random_embeddings
from model_optimized import SeqSetVAEFineTuner
from seqsetvae.batches.loading import CohortDataModule
from seqsetvae.cohort import open_cohort
from seqsetvae.runs.finetune import METRICS, PRINTED
from seqsetvae.settings.groups import FinetuningSchedule
from seqsetvae.training.callbacks import MetricsTable
from seqsetvae.training.feature_cache import cached_features
from seqsetvae.training.precision import Precision
from seqsetvae.training.run_folder import RunFolder
from seqsetvae.training.schedule import VAL_AUC
from seqsetvae.training.stages import Run

EPOCHS = 20
WANTED = 15.0  # times as fast as the backbone in every step
SYNTHETIC_STAYS = 400


def section(data_dir: Path | None, scratch: Path) -> list[Measurement]:
    """Measurements of all stays of a cohort, or of synthetic ones."""
    path = open_stays(data_dir, scratch, SYNTHETIC_STAYS).path
    (plain,) = isolated(backbone_in_every_step, path, scratch)
    computed, cached = (isolated(with_cached_features, path, scratch, is_found) for is_found in (False, True))
    baseline = f"{EPOCHS} × one epoch with the backbone read in every step"
    runs = [run.against(plain.value, baseline, WANTED) for run in (computed[0], cached[0])]
    return with_note("" if data_dir else "synthetic", [*runs, *cached[1:], plain])


def with_cached_features(data_dir: Path, scratch: Path, is_found: bool) -> list[Measurement]:
    """A whole run, and one epoch of it: the first call computes the features, the next one finds them in the cache."""
    run, module = _run(data_dir, scratch, EPOCHS)
    start = time.perf_counter()
    features = cached_features(module, run.data, Precision(device=torch.device("cpu")), scratch / "features")
    before = time.perf_counter() - start
    run.fit(1, EPOCHS, warm_up=False, features=features)
    seconds = time.perf_counter() - start
    assert bool(features.passes) != is_found, "the folder must not be used for anything else"
    n_stays = sum(run.data.n_selected(split) for split in ("train", "valid"))
    stays, how = f"{n_stays:,} stays", "found in the cache" if is_found else "computed"
    what, note = f"frozen run, {EPOCHS} epochs, features {how}", f"{stays}; {before:.1f} s before the first epoch"
    epoch, batches = 1000 * (seconds - before) / EPOCHS, f"{stays}, batches of {run.data.batch_size}"
    return [
        Measurement(what, seconds, "s", note=note),
        Measurement("epoch of the head, validation included", epoch, "ms", note=batches),
    ]


def backbone_in_every_step(data_dir: Path, scratch: Path) -> list[Measurement]:
    """Time of a run without cached features: one epoch, multiplied."""
    run, _ = _run(data_dir, scratch, 1)
    start = time.perf_counter()
    run.fit(1, 1, warm_up=False)
    seconds = EPOCHS * (time.perf_counter() - start)
    (epoch,) = run.state.rows
    note = f"one epoch measured, × {EPOCHS}; {epoch.seconds:,.1f} s of the one in training steps"
    return [Measurement("frozen run, backbone in every step", seconds, "s", note=note)]


def _run(data_dir: Path, scratch: Path, epochs: int) -> tuple[Run, SeqSetVAEFineTuner]:
    """A run that is not yet started, without early stopping, and its module."""
    torch.manual_seed(0)
    cohort = open_cohort(data_dir)
    module = fine_tuner(PRACTICE, random_embeddings(cohort, PRACTICE))
    folder = RunFolder.create(scratch, "finetune")
    schedule = FinetuningSchedule(
        max_epochs=epochs,
        unfreeze_after=None,
        warmup_steps=0,
        lr_factor=0.8,
        lr_patience=4,
        min_lr=1e-6,
        es_patience=epochs,
    )
    run = Run(
        module=module,
        data=CohortDataModule(cohort, batch_size=8, max_events=65536),
        folder=folder,
        table=MetricsTable(folder.path / "metrics.csv", folder.path / "tensorboard"),
        watched=VAL_AUC,
        schedule=schedule,
        metrics=METRICS,
        printed=PRINTED,
        parts=("head", "backbone"),
        trainer_options={"accelerator": "cpu", "devices": 1, "gradient_clip_val": 1.0},
    )
    return run, module
