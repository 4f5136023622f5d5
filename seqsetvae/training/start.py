"""Start a training run in a new folder, or resume one, and write its summary at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from seqsetvae.batches.loading import CohortDataModule
from seqsetvae.batches.variables import not_used, reads_no_value
from seqsetvae.checkpoint.backbone import LoadReport
from seqsetvae.checkpoint.record import record_of
from seqsetvae.cohort import notices
from seqsetvae.cohort.profile import Window
from seqsetvae.models.members import MEMBERS
from seqsetvae.settings.declare import as_plain, chosen_in
from seqsetvae.settings.groups import OptimizerSettings, PretrainedSettings, RunSettings
from seqsetvae.settings.resume import CHECKSUM, CHOSEN, settings_checksum
from seqsetvae.system.console import end_log, start_log, warn
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import file_sha256
from seqsetvae.system.interrupt import stoppable
from seqsetvae.system.processes import broadcast_from_first, first_process_first, this_process
from seqsetvae.system.resources import watched_cores
from seqsetvae.training.callbacks import MetricsTable, device_use, header_line
from seqsetvae.training.precision import effective_precision, say_precision
from seqsetvae.training.resume import ResumePoint, check_same_inputs, identity, read_resume_point, require_same_run
from seqsetvae.training.run_folder import (
    CONFIG,
    NOT_USED,
    RUN_STATE,
    SUMMARY,
    WINDOW,
    Row,
    RunFolder,
    RunState,
    find_checkpoint,
)
from seqsetvae.training.schedule import Watched
from seqsetvae.training.stages import Run
from seqsetvae.training.summary import Summary, summarize
from seqsetvae.training.trackers import trackers


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
    resume: Path | None = None,
) -> Run:
    """Create the run folder, write its config.json, and return the run; nothing is written before this.

    `settings` are those of the mode. With `resume` the folder is that of a run which this process resumes.

    Raises:
        InputError: the resumed run had other data or another pretrained checkpoint, or cannot be read.
    """
    run: RunSettings = settings.run
    if resume is None:
        folder = RunFolder(broadcast_from_first(lambda: RunFolder.create(run.output_root_dir, mode).path))
    else:
        folder = RunFolder(resume)
    folder.lock()
    config = _config(mode, settings, data, sizes, report, effective_precision(run, device))
    config |= _model_facts(module, data)
    point = None if resume is None else _resume_point(folder, config, metrics)
    if folder.writes:
        start_log(folder.log, append=resume is not None)
    folder.write_json(CONFIG, config)
    _say_start(folder, config, data)
    say_precision(run, device)
    tracked = trackers(settings.loggers.loggers, folder.path, settings) if folder.writes else ()
    training_run = Run(
        module=module,
        data=data,
        folder=folder,
        watched=watched,
        metrics=metrics,
        printed=printed,
        parts=parts,
        table=MetricsTable(folder.path / "metrics.csv", folder.path / "tensorboard", tracked, folder.writes),
        schedule=settings.schedule,
        trainer_options=trainer_options(run, settings.optimizer, device),
        save_every_minutes=settings.schedule.save_every_minutes,
        state=RunState() if point is None else point.run,
        identity=identity(config),
        resumed=point,
    )
    if resume is not None:
        _restore(training_run)
    if this_process().rank >= (1 if point is None else point.world_size):
        torch.manual_seed(run.seed + this_process().rank)  # dropout of its own; a resumed process has its own state
    return training_run


def _resume_point(folder: RunFolder, config: dict[str, Any], metrics: Sequence[str]) -> ResumePoint | None:
    """Where a run resumes; None: at its start. Raises InputError if it cannot be resumed with this config."""
    try:
        check_same_inputs(folder.read_json(CONFIG), config, folder.path)
        with first_process_first():
            point = read_resume_point(folder)
        if point is not None:
            require_same_run(point.identity, identity(config), point.run, metrics, point.path)
    except InputError:
        folder.unlock(as_found=True)
        raise
    return point


def _say_start(folder: RunFolder, config: dict[str, Any], data: CohortDataModule) -> None:
    """Where the run is, and what of the data the model sees."""
    print(f"Run folder: {folder.path}")
    print(f"Window: {config[WINDOW]}")
    if config[NOT_USED]:
        print(f"Variables that the model does not use, or not wholly: {len(config[NOT_USED]):,}; see {CONFIG}")
    if reads_no_value(data.cohort, data.transform):
        warn(
            "No value is read: every variable has fewer training values than min_count, so the model sees only "
            "which variables occur and when. For a new model pass a smaller --min_count, such as 0."
        )


def _restore(run: Run) -> None:
    """Restore the files of the run to the point where it resumes."""
    run.table.restore(run.state.rows)
    run.folder.write_json(RUN_STATE, run.state.as_plain())
    print(f"Resumed {run.resumed or 'at the start'}", flush=True)
    now = this_process().world_size
    if run.resumed is not None and run.resumed.world_size != now:
        warn(f"Processes: {run.resumed.world_size} before, {now} from now on, so the result is another one.")
    if run.state.rows:
        print(header_line(run.printed, run.schedule.max_epochs), flush=True)


def _config(
    mode: str, settings: Any, data: CohortDataModule, sizes: Any, report: LoadReport | None, precision: str
) -> dict[str, Any]:
    """What config.json records: the settings, and what the run starts from."""
    cohort, recorded = data.cohort, {"mode": mode, **as_plain(settings)}
    table = record_of(cohort.variables)
    targets = cohort.manifest.get("targets")  # of another task than one binary label
    return {
        "settings": recorded,
        CHECKSUM: settings_checksum(recorded),
        CHOSEN: chosen_in(settings),
        "precision": precision,  # as it is on this device; the setting may be another
        "sizes": sizes.as_dict(),
        "pretrained": None if report is None else report.as_plain(),
        "pretrained_checksum": _pretrained_checksum(settings.pretrained),
        "values": data.transform.as_plain(),
        "partial_backbone": report is not None and not report.is_complete,
        "cohort": {
            "path": str(cohort.path.resolve()),
            "content": cohort.content_hash,
            "data": cohort.data_hash,
            "statistics": cohort.variables.statistics,
            "embeddings": "generated by name" if cohort.variables.given is None else "given",
            "variables": dict(zip(table["names"], zip(table["mean"], table["std"], strict=True), strict=True)),
            "label_name": cohort.label_name,
            **({} if targets is None else {"label_file": targets["file"], "events": targets["events"]}),
            "notices": notices(cohort),
        },
        "versions": {"torch": torch.__version__, "pytorch_lightning": pl.__version__},
        "threads": torch.get_num_threads(),
    }


def _model_facts(module: pl.LightningModule, data: CohortDataModule) -> dict[str, Any]:
    """What a model was trained on and which variables it does not use, for the report."""
    model: Any = module
    backbone = getattr(model, "backbone", None)
    unused = {} if backbone is None else not_used(backbone, data.cohort, data.transform)
    members = getattr(model, "members", None)
    averaged = {} if members is None else {MEMBERS: members.said()}
    return {WINDOW: str(Window.from_splits([data.cohort.split("train")])), NOT_USED: unused, **averaged}


def _pretrained_checksum(pretrained: PretrainedSettings) -> str | None:
    if pretrained.pretrained_ckpt is None:
        return None
    return file_sha256(find_checkpoint(pretrained.pretrained_ckpt)[0])


def trainer_options(run: RunSettings, optimizer: OptimizerSettings, device: torch.device) -> dict[str, Any]:
    """Arguments of a Trainer."""
    return {
        "accelerator": "gpu" if device.type == "cuda" else "cpu",
        "devices": run.devices,
        "num_nodes": run.num_nodes,
        "strategy": run.strategy.replace("auto", "ddp") if run.devices * run.num_nodes > 1 else "auto",
        "precision": effective_precision(run, device),
        "deterministic": run.deterministic,
        "gradient_clip_val": optimizer.gradient_clip_val,
        "accumulate_grad_batches": optimizer.gradient_accumulation_steps,
    }


def train_and_summarize(
    run: Run,
    device: torch.device,
    train: Callable[[], None],
    advice: Callable[[list[Row]], list[str]],
    finish: Callable[[Path], None] | None = None,
) -> Summary:
    """Train, write and print the summary, and do what else belongs to the end of a run: `finish` with its folder.

    Until all of that is done the folder is locked; a run whose lock is left is not finished.
    """
    with stoppable(run.folder.path, run.stop):
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            with watched_cores(torch.get_num_threads()):
                train()
        finally:
            run.table.close()
        use = device_use(device, time.process_time() - cpu, time.perf_counter() - wall, run.state.gpu_busy)
        summary = summarize(run, use, run.seconds, advice(list(run.state.rows)))
        run.folder.write_text("summary.txt", f"{summary}\n")
        run.folder.write_json(SUMMARY, asdict(summary))
        print(f"\n{summary}", flush=True)
        end_log()
        if finish is not None:
            finish(run.folder.path)
        run.folder.previous.unlink(missing_ok=True)
        run.folder.unlock()
    return summary
