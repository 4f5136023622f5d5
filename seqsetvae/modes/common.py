"""Steps that several modes share: check and open the data, load the backbone, build the loaders."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytorch_lightning as pl
import torch

from seqsetvae.architectures.seqsetvae.backbone import Backbone, BackboneSizes
from seqsetvae.checkpoint import (
    Checkpoint,
    LoadReport,
    infer_sizes,
    load_backbone,
    read_checkpoint,
    sizes_from_settings,
)
from seqsetvae.cohort import Cohort, check_folder, find_cohort, notices
from seqsetvae.cohort.transform import ValueTransform
from seqsetvae.console import end_log, start_log
from seqsetvae.errors import InputError
from seqsetvae.loading import CohortDataModule
from seqsetvae.modes.values import check_value_flags
from seqsetvae.settings import Settings
from seqsetvae.training.callbacks import MetricsTable, device_use
from seqsetvae.training.precision import effective_precision, value_type
from seqsetvae.training.run_folder import CONFIG, RunFolder, find_checkpoint
from seqsetvae.training.run_state import Row
from seqsetvae.training.schedule import Schedule, Watched
from seqsetvae.training.stages import Run
from seqsetvae.training.summary import Summary, summarize

COHORT_CACHE = "cohorts"  # below output_root_dir: compiled copies of old data folders
FEATURE_CACHE = "features"  # beside them: pooled history states of frozen backbones


def check_data(settings: Settings, *splits: str, labelled: bool = True, data_dir: Path | None = None) -> int:
    """Check what can be seen without reading a stay, and return the width of the variable embeddings.

    Hashing and compiling a data folder can take minutes: a wrong label name must not cost them.
    """
    folder = data_dir or settings.data_dir
    assert folder is not None, "settings are checked before a mode runs"
    return check_folder(
        folder,
        stats_path=settings.params_map_path,
        label_path=settings.label_path,
        embeddings_path=settings.embeddings_path,
        label_name=settings.label_name,
        splits=splits,
        labelled=labelled,
    )


def open_data(settings: Settings, data_dir: Path | None = None) -> Cohort:
    """The cohort of the settings; a patient_ehr folder is compiled once and later recognized by its content."""
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


def data_module(
    settings: Settings, cohort: Cohort, device: torch.device, transform: ValueTransform, labelled: bool = True
) -> CohortDataModule:
    """Loaders over the cohort; prints how many stays `max_sets` shortens, and how many are left out without a label."""
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
        transform=transform,
    )
    print(f"Values: {transform}")
    if settings.max_sets is not None:
        cut = ", ".join(f"{name} {data.n_cut(name):,} of {split.n_stays:,}" for name, split in cohort.splits.items())
        print(f"Stays shortened to their last {settings.max_sets} sets (max_sets): {cut}")
    unlabelled = {name: int((split.label < 0).sum()) for name, split in cohort.splits.items()}
    if labelled and any(unlabelled.values()):
        print("Stays without a label, left out: " + ", ".join(f"{name} {n:,}" for name, n in unlabelled.items()))
    return data


Model = TypeVar("Model", bound=Backbone)


def load_pretrained(settings: Settings, kind: type[Model], width: int) -> tuple[Model, Checkpoint, LoadReport]:
    """The model of --pretrained_ckpt, a Backbone or one with its decoder; prints what was loaded.

    `width` is that of the data's variable embeddings.

    Raises:
        InputError: unreadable, incomplete, or other sizes than those of the data or chosen by the user.
    """
    assert settings.pretrained_ckpt is not None, "settings are checked before a mode runs"
    path, _ = find_checkpoint(settings.pretrained_ckpt)
    checkpoint = read_checkpoint(path)
    check_value_flags(settings, checkpoint.transform, path)
    sizes_of_checkpoint = infer_sizes(checkpoint, settings.sizes())
    check_chosen_sizes(settings, sizes_of_checkpoint, path)
    check_width(width, sizes_of_checkpoint.input_dim, path, settings.data_dir)
    backbone = kind(sizes_of_checkpoint)
    report = load_backbone(backbone, checkpoint, settings.allow_partial_backbone)
    print(f"Checkpoint: {path}\n{report}")
    sizes = ", ".join(f"{name} {value}" for name, value in backbone.sizes.as_dict().items())
    print(f"Backbone sizes, from the checkpoint: {sizes}")
    if not report.is_complete:
        print(
            f"⚠️  PARTIAL BACKBONE: these weights are randomly initialized (--allow_partial_backbone):\n"
            f"  {report.problems()}"
        )
    unsaid = sizes_from_settings(checkpoint)
    if unsaid:
        values = ", ".join(f"{name} = {getattr(backbone.sizes, name)}" for name in unsaid)
        print(
            f"⚠️  The checkpoint does not state {values}: these values are from the settings. A wrong number of "
            "attention heads gives wrong results without an error, so compare them with the checkpoint's training."
        )
    return backbone, checkpoint, report


def check_chosen_sizes(settings: Settings, sizes: BackboneSizes, path: Path) -> None:
    """Sizes that the user chose must be those of the checkpoint, which would replace them without a word.

    Raises:
        InputError: a line for every setting that disagrees, with both values.
    """
    actual = sizes.as_dict()
    lines = []
    for chosen in settings.chosen_sizes:
        wrong = {name: value for name, value in chosen.sizes.items() if value != actual[name]}
        if wrong:
            means = f" ({_listed(wrong)})" if chosen.setting not in wrong else ""
            lines.append(
                f"\n  {chosen.setting}: received {chosen.received!r}{means} from {chosen.source}; the checkpoint has "
                f"{_listed({name: actual[name] for name in wrong})}; {chosen.remedy}"
            )
    if lines:
        raise InputError(f"{path}: the sizes of a checkpoint cannot be changed:{''.join(lines)}")


def _listed(sizes: dict[str, int | float | None]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sizes.items())


def check_width(width: int, input_dim: int, path: Path, data: Path | None) -> None:
    """Raises InputError if the data's variable embeddings have another width than those of the checkpoint."""
    if width != input_dim:
        raise InputError(
            f"{path}: was trained with variable embeddings of width {input_dim}; those of the data {data} have width "
            f"{width}. Use the cached.csv of that training: pass --embeddings_path, or compile the data with it."
        )


def check_embeddings(cohort: Cohort, input_dim: int, fingerprints: dict[str, str] | None, path: Path) -> None:
    """The data's variables must have the mean, std and embedding that they had when the model was trained.

    Raises:
        InputError: another embedding width, or another mean, std or embedding of some variables.
    """
    check_width(cohort.embeddings.shape[1], input_dim, path, cohort.path)
    if fingerprints is None:
        if cohort.embeddings_generated:
            print(
                "⚠️  There is no cached.csv, so the variable embeddings were generated from the variable names, and the "
                "checkpoint does not record its own. If it was trained with other embeddings, its predictions are "
                "meaningless."
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
        raise InputError(f"{path}: was trained on other variables; the data {cohort.path} contain none of them")
    changed = sorted(name for name in ours.keys() & fingerprints.keys() if ours[name] != fingerprints[name])
    if changed:
        raise InputError(
            f"{path}: was trained with another mean, std or embedding of {len(changed)} variables: "
            f"{', '.join(changed[:8])}. Use the stats.csv and cached.csv of that training (--params_map_path, "
            "--embeddings_path)."
        )
    new = sorted(ours.keys() - fingerprints.keys())
    if new:
        print(f"⚠️  {len(new)} variables of {cohort.path} did not occur in the checkpoint's data: {', '.join(new[:8])}")


def embedding_table(cohort: Cohort, settings: Settings) -> torch.Tensor:
    """Embeddings of the cohort's variables, in the precision of the run: [V, I]."""
    return torch.from_numpy(np.array(cohort.embeddings, dtype=value_type(settings)))


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
    printed: Sequence[str],
    parts: Sequence[str],
) -> Run:
    """Create the run folder, write its config.json, and return the run; nothing is written before this."""
    folder = RunFolder.create(settings.output_root_dir, settings.mode)
    start_log(folder.log)
    folder.write_json(
        CONFIG,
        {
            "settings": settings.as_plain(),
            "sizes": sizes.as_dict(),
            "pretrained": None if report is None else report.as_plain(),
            "values": data.transform.as_plain(),
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
    print(f"Run folder: {folder.path}")
    return Run(
        module=module,
        data=data,
        folder=folder,
        watched=watched,
        metrics=metrics,
        printed=printed,
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
    use = device_use(device, time.process_time() - cpu, seconds, run.state.gpu_busy)
    summary = summarize(run, use, seconds, advice(list(run.state.rows)))
    run.folder.write_json("summary.json", asdict(summary))
    run.folder.write_text("summary.txt", f"{summary}\n")
    print(f"\n{summary}", flush=True)
    end_log()
    return summary
