"""What several modes do alike: open the cohort, load the backbone, build the loaders."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytorch_lightning as pl
import torch

from seqsetvae.checkpoint import (
    Checkpoint,
    LoadReport,
    infer_sizes,
    load_backbone,
    read_checkpoint,
    sizes_from_settings,
)
from seqsetvae.cohort import Cohort, find_cohort, notices
from seqsetvae.errors import InputError
from seqsetvae.loading import CohortDataModule
from seqsetvae.model.backbone import Backbone, BackboneSizes
from seqsetvae.settings import Settings
from seqsetvae.training.features import Arithmetic
from seqsetvae.training.run_folder import CONFIG, RunFolder
from seqsetvae.training.schedule import Watched
from seqsetvae.training.stages import Run, Schedule
from seqsetvae.training.summary import Summary, summarize
from seqsetvae.training.watch import MetricsTable, Row, device_use

COHORT_CACHE = "cohorts"  # below output_root_dir: compiled copies of old data folders
FEATURE_CACHE = "features"  # beside them: what frozen backbones say of stays


def open_data(settings: Settings, data_dir: Path | None = None) -> Cohort:
    """The cohort of the settings; an old data folder is compiled once and found again by its content."""
    folder = data_dir or settings.data_dir
    assert folder is not None, "settings are checked before a mode runs"
    cohort = find_cohort(
        folder,
        stats_path=settings.params_map_path,
        label_path=settings.label_path,
        embeddings_path=settings.embeddings_path,
        label_name=settings.label_name,
        skip_bad=settings.skip_bad,
        cache_root=settings.output_root_dir / COHORT_CACHE,
    )
    counts = ", ".join(f"{name} {split.n_stays:,}" for name, split in cohort.splits.items())
    print(f"Data: {cohort.path} ({counts} stays; label {cohort.label_name})")
    for line in notices(cohort):
        print(f"  {line}")
    return cohort


def data_module(settings: Settings, cohort: Cohort, device: torch.device, labelled: bool = True) -> CohortDataModule:
    """Loaders over the cohort; says how many stays `max_sets` cuts, and how many have no label where one is needed."""
    data = CohortDataModule(
        cohort,
        batch_size=settings.batch_size,
        max_events=settings.max_events_per_batch,
        max_sets=settings.max_sets,
        num_workers=settings.num_workers,
        dtype=value_type(settings),
        seed=settings.seed,
        labelled=labelled,
        pin_memory=device.type == "cuda",
        padded_classes=device.type == "cuda",
    )
    if settings.max_sets is not None:
        cut = ", ".join(f"{name} {data.n_cut(name):,} of {split.n_stays:,}" for name, split in cohort.splits.items())
        print(f"Cut to their last {settings.max_sets} sets: {cut} stays")
    unlabelled = {name: int((split.label < 0).sum()) for name, split in cohort.splits.items()}
    if labelled and any(unlabelled.values()):
        print("Stays left out for want of a label: " + ", ".join(f"{name} {n:,}" for name, n in unlabelled.items()))
    return data


def value_type(settings: Settings) -> type:
    """Type of values in a batch: double where the run is in double precision."""
    return np.float64 if settings.precision == "64-true" else np.float32


Model = TypeVar("Model", bound=Backbone)


def load_pretrained(settings: Settings, kind: type[Model]) -> tuple[Model, Checkpoint, LoadReport]:
    """What --pretrained_ckpt holds, with the loading table printed: a Backbone, or one with its decoder."""
    assert settings.pretrained_ckpt is not None, "settings are checked before a mode runs"
    checkpoint = read_checkpoint(settings.pretrained_ckpt)
    backbone = kind(infer_sizes(checkpoint, settings.sizes()))
    report = load_backbone(backbone, checkpoint, settings.allow_partial_backbone)
    print(report)
    sizes = ", ".join(f"{name} {value}" for name, value in backbone.sizes.as_dict().items())
    print(f"Backbone: {sizes} (the checkpoint's; settings stand in only for what it does not say)")
    if not report.is_complete:
        print(
            f"⚠️  PARTIAL BACKBONE: what is not in the checkpoint starts random, as --allow_partial_backbone asks:\n"
            f"  {report.problems()}"
        )
    unsaid = sizes_from_settings(checkpoint)
    if unsaid:
        values = ", ".join(f"{name} = {getattr(backbone.sizes, name)}" for name in unsaid)
        print(
            f"⚠️  The checkpoint does not say {values}: taken from the settings. Other numbers of heads give other "
            "results without any error, so check them against the training of the checkpoint."
        )
    return backbone, checkpoint, report


def check_embeddings(cohort: Cohort, input_dim: int, fingerprints: dict[str, str] | None, path: Path) -> None:
    """The cohort's variables must mean to the model what they meant when it was trained.

    Raises:
        InputError: another embedding width, or another mean, std or embedding of some variables.
    """
    width = cohort.embeddings.shape[1]
    if width != input_dim:
        raise InputError(
            f"{path}: was trained with variable embeddings of width {input_dim}, the cohort {cohort.path} "
            f"has width {width}. Give it the cached.csv of that training (--embeddings_path)."
        )
    if fingerprints is None:
        if cohort.embeddings_generated:
            print(
                "⚠️  The variable embeddings were made from the variables' names, since there is no cached.csv, and "
                "the checkpoint does not say which it was trained with. With others its predictions mean nothing."
            )
        if cohort.manifest["statistics"] == "train split":
            print(
                "⚠️  There was no stats.csv: mean and std of each variable are those of this cohort's train split, and "
                "the checkpoint does not say which it was trained with. With others its predictions mean nothing: if "
                "you have the stats.csv of its training, pass it (--params_map_path)."
            )
        return
    ours = cohort.fingerprints()
    if not ours.keys() & fingerprints.keys():
        raise InputError(f"{path}: was trained on other variables; none of those of {cohort.path} was among them")
    changed = sorted(name for name in ours.keys() & fingerprints.keys() if ours[name] != fingerprints[name])
    if changed:
        raise InputError(
            f"{path}: was trained with another mean, std or embedding of {len(changed)} variables: "
            f"{', '.join(changed[:8])}. Give the data the stats.csv and cached.csv of that training."
        )
    new = sorted(ours.keys() - fingerprints.keys())
    if new:
        print(f"⚠️  {len(new)} variables of {cohort.path} were not in the training data: {', '.join(new[:8])}")


def embedding_table(cohort: Cohort, settings: Settings) -> torch.Tensor:
    """Vectors of the cohort's variables, in the precision of the run: [V, I]."""
    return torch.from_numpy(np.array(cohort.embeddings, dtype=value_type(settings)))


def prepare_device(settings: Settings) -> torch.device:
    """The device that the accelerator setting means, with the kernels that `deterministic` asks for.

    A Trainer would set these only when it starts, and by then a frozen backbone has been read.

    Raises:
        InputError: a GPU is asked for and there is none.
    """
    if settings.accelerator == "gpu" and not torch.cuda.is_available():
        raise InputError(
            "accelerator: received 'gpu', but torch sees none; use --accelerator cpu, or install a CUDA build of torch"
        )
    use_gpu = settings.accelerator != "cpu" and torch.cuda.is_available()
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.use_deterministic_algorithms(settings.deterministic)
    return torch.device("cuda" if use_gpu else "cpu")


def effective_precision(settings: Settings, device: torch.device) -> str:
    """The precision of the run: a CPU has no float16 training, and bf16 stands in for it."""
    return "bf16-mixed" if settings.precision == "16-mixed" and device.type == "cpu" else settings.precision


def arithmetic(settings: Settings, device: torch.device) -> Arithmetic:
    """How the settings have a backbone compute on this device."""
    mixed = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(effective_precision(settings, device))
    return Arithmetic(device=device, autocast=mixed, compiled=settings.compile_model)


def start_run(
    settings: Settings,
    module: pl.LightningModule,
    data: CohortDataModule,
    device: torch.device,
    sizes: BackboneSizes,
    report: LoadReport | None,
    *,
    watched: Watched,
    metrics: Sequence[str],
    parts: Sequence[str],
) -> Run:
    """Make the run folder, write down what is run, and return the run; nothing was written before this."""
    folder = RunFolder.create(settings.output_root_dir, settings.mode)
    folder.write_json(
        CONFIG,
        {
            "settings": settings.as_plain(),
            "sizes": sizes.as_dict(),
            "pretrained": None if report is None else report.as_plain(),
            "partial_backbone": report is not None and not report.is_complete,
            "cohort": {
                "path": str(data.cohort.path.resolve()),
                "content": data.cohort.content_hash,
                "label_name": data.cohort.label_name,
                "notices": notices(data.cohort),
            },
            "versions": {"torch": torch.__version__, "pytorch_lightning": pl.__version__},
        },
    )
    print(f"Run: {folder.path}")
    return Run(
        module=module,
        data=data,
        folder=folder,
        watched=watched,
        metrics=metrics,
        parts=parts,
        table=MetricsTable(folder.path / "metrics.csv", folder.path / "tensorboard"),
        schedule=Schedule(**{item.name: getattr(settings, item.name) for item in fields(Schedule)}),
        trainer_options={
            "accelerator": "gpu" if device.type == "cuda" else "cpu",
            "devices": settings.devices,
            "strategy": settings.strategy if settings.devices > 1 else "auto",  # one process needs none
            "precision": effective_precision(settings, device),
            "deterministic": settings.deterministic,
            "gradient_clip_val": settings.gradient_clip_val,
            "accumulate_grad_batches": settings.gradient_accumulation_steps,
        },
    )


def train_and_summarize(
    run: Run, device: torch.device, train: Callable[[], None], advice: Callable[[list[Row]], list[str]]
) -> Summary:
    """Train, then write and print the summary."""
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        train()
    finally:
        run.table.close()
    seconds = time.perf_counter() - wall
    use = device_use(device, time.process_time() - cpu, seconds, run.gpu_busy)
    summary = summarize(run, use, seconds, advice(run.table.rows))
    run.folder.write_json("summary.json", asdict(summary))
    run.folder.write_text("summary.txt", f"{summary}\n")
    print(f"\n{summary}", flush=True)
    return summary
