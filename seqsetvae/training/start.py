"""Start a training run in a new folder, and write its summary at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch

from seqsetvae.checkpoint import LoadReport
from seqsetvae.cohort import notices
from seqsetvae.console import end_log, start_log
from seqsetvae.loading import CohortDataModule
from seqsetvae.settings.declare import as_plain
from seqsetvae.settings.groups import OptimizerSettings, RunSettings
from seqsetvae.training.callbacks import MetricsTable, device_use
from seqsetvae.training.precision import effective_precision
from seqsetvae.training.run_folder import CONFIG, RunFolder
from seqsetvae.training.run_state import Row
from seqsetvae.training.schedule import Watched
from seqsetvae.training.stages import Run
from seqsetvae.training.summary import Summary, summarize


def start_run(
    mode: str,
    settings: Any,
    module: pl.LightningModule,
    data: CohortDataModule,
    device: torch.device,
    sizes: Any,
    report: LoadReport | None,
    *,
    watched: Watched,
    metrics: Sequence[str],
    printed: Sequence[str],
    parts: Sequence[str],
) -> Run:
    """Create the run folder, write its config.json, and return the run; nothing is written before this.

    `settings` are those of the mode.
    """
    run: RunSettings = settings.run
    targets = data.cohort.manifest.get("targets")  # of another task than one binary label
    folder = RunFolder.create(run.output_root_dir, mode)
    start_log(folder.log)
    folder.write_json(
        CONFIG,
        {
            "settings": {"mode": mode, **as_plain(settings)},
            "sizes": sizes.as_dict(),
            "pretrained": None if report is None else report.as_plain(),
            "values": data.transform.as_plain(),
            "partial_backbone": report is not None and not report.is_complete,
            "cohort": {
                "path": str(data.cohort.path.resolve()),
                "content": data.cohort.content_hash,
                "label_name": data.cohort.label_name,
                **({} if targets is None else {"label_file": targets["file"], "events": targets["events"]}),
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
        schedule=settings.schedule,
        trainer_options=trainer_options(run, settings.optimizer, device),
    )


def trainer_options(run: RunSettings, optimizer: OptimizerSettings, device: torch.device) -> dict[str, Any]:
    """Arguments of a Trainer."""
    return {
        "accelerator": "gpu" if device.type == "cuda" else "cpu",
        "devices": run.devices,
        "strategy": run.strategy if run.devices > 1 else "auto",  # one process needs none
        "precision": effective_precision(run, device),
        "deterministic": run.deterministic,
        "gradient_clip_val": optimizer.gradient_clip_val,
        "accumulate_grad_batches": optimizer.gradient_accumulation_steps,
    }


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
