"""From the old layout to batches, against reading one parquet file at a time, as the old scripts did.

Both sides read the same stays, in one run, from a warm file cache, so that the speed of a disk does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import Measurement, isolated, once, seconds, with_note
from benchmarks.workloads import fine_tuner, first
from model_optimized import SeqSetVAEFineTuner
from seqsetvae.batches.loading import CohortDataModule
from seqsetvae.cohort import open_cohort, open_or_compile
from seqsetvae.cohort.export import write_layout
from seqsetvae.cohort.open import compile_layout
from seqsetvae.cohort.sources.seqsetvae_layout import locate_layout
from seqsetvae.cohort.sources.synthetic import write_synthetic
from seqsetvae.models.seqsetvae.sizes import PRESETS, Sizes
from seqsetvae.training.callbacks import Clock
from seqsetvae.training.stages import quiet_lightning

N_STAYS = 2_000  # files of the old layout
N_READ = 300  # stays that the slow baseline reads, and that are trained on
BATCH_SIZES = (8, 32)
MAX_EVENTS = 65_536
REPEATS = 3
WANTED = 50.0  # times as many stays a second from the compiled cohort as from parquet files

OldSet = tuple[torch.Tensor, torch.Tensor, float]  # variables, z-scores, minute


def section(data_dir: Path | None, scratch: Path, n_stays: int = N_STAYS, n_read: int = N_READ) -> list[Measurement]:
    """All measurements, over the first `n_stays` training stays of a compiled cohort, or over synthetic stays."""
    layout = _old_layout(data_dir, scratch / "old layout", n_stays)
    cohort = compile_layout(locate_layout(layout), scratch / "compiled", progress=False).path
    measurements = isolated(compiling, layout, scratch)
    for batch_size in BATCH_SIZES:
        measurements += isolated(loading, cohort, layout, batch_size, n_read)
    measurements += isolated(workers, cohort) + isolated(training, cohort, n_read)
    source = open_cohort(data_dir or cohort, verify=False).manifest["source"]
    return with_note("synthetic stays" if "synthetic" in source else "real stays", measurements)


def _old_layout(data_dir: Path | None, out: Path, n_stays: int) -> Path:
    """A patient_ehr folder of about this many stays."""
    if data_dir is None:
        return write_synthetic(out, n_stays=n_stays)
    cohort = open_cohort(data_dir)
    write_layout(replace(cohort, splits={"train": first(cohort.split("train"), n_stays)}), out)
    return out / "patient_ehr"


def _data(cohort: Path) -> CohortDataModule:
    return CohortDataModule(open_cohort(cohort), batch_size=BATCH_SIZES[0], max_events=MAX_EVENTS)


def compiling(layout: Path, scratch: Path) -> list[Measurement]:
    """Files compiled per second, against files that pandas only reads."""
    files = sorted(layout.glob("*/*.parquet"))
    for file in files:
        file.read_bytes()  # into the file cache, for both sides
    pandas = len(files) / once(lambda: [pd.read_parquet(file) for file in files])

    def start() -> None:
        open_or_compile(layout, cache_root=scratch / "cache", progress=False)

    work: dict[str, Callable[[], object]] = {
        "compile an old layout (data.py compile)": lambda: compile_layout(
            locate_layout(layout), scratch / "again", progress=False
        ),
        "first start on an old layout (hash, compile, hash, verify)": start,
        "later start on an old layout (hash, verify)": start,
    }
    speeds = [Measurement(what, len(files) / once(run), "files/s") for what, run in work.items()]
    return [speed.against(pandas, "pandas.read_parquet, one by one") for speed in speeds]


class OldStays(Dataset[list[OldSet]]):
    """One stay an item, as old scripts read it: its parquet file, z-scores by name, one pair of tensors a set.

    The embeddings of the events, which such scripts looked up here too, are left out.
    """

    def __init__(self, layout: Path, files: Sequence[Path]) -> None:
        stats = pd.read_csv(layout.parent / "stats.csv", keep_default_na=False)
        self.files = files
        self.mean = dict(zip(stats["variable"], stats["mean"], strict=True))
        self.std = dict(zip(stats["variable"], stats["std"], strict=True))
        self.code = {name: code for code, name in enumerate(sorted(self.mean))}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, stay: int) -> list[OldSet]:
        table = pd.read_parquet(self.files[stay])
        names = table["variable"]
        table["z"] = (table["value"] - names.map(self.mean).fillna(0.0)) / names.map(self.std).fillna(1.0)
        table["code"] = names.map(self.code).fillna(-1).astype(int)
        return [
            (
                torch.tensor(rows["code"].to_numpy()),
                torch.tensor(rows["z"].to_numpy(np.float32)),
                float(rows["minute"].iloc[0]),
            )
            for _, rows in table.groupby("set_index")
        ]


def loading(cohort: Path, layout: Path, batch_size: int, n_read: int) -> list[Measurement]:
    """Stays/s of an epoch of shuffled batches, against a loader that reads a file for each stay."""
    opened = open_cohort(cohort)
    few = first(opened.split("train"), n_read)
    file_of = {int(float(file.stem)): file for file in (layout / "train").glob("*.parquet")}
    files = [file_of[stay] for stay in few.stay_id.tolist()]
    old: DataLoader[list[OldSet]] = DataLoader(OldStays(layout, files), batch_size, shuffle=True, collate_fn=list)
    data = CohortDataModule(replace(opened, splits={"train": few}), batch_size=batch_size, max_events=MAX_EVENTS)
    ours = _stays_per_second(data)
    read_only = len(files) / once(lambda: [pd.read_parquet(file) for file in files])
    baseline = len(files) / seconds(lambda: list(old), repeats=1)
    note = f"{ours / read_only:,.0f} times pandas.read_parquet alone; median of {REPEATS}, the baseline once"
    measurement = Measurement(f"loader, batches of {batch_size}", ours, "stays/s", note=note)
    return [measurement.against(baseline, "a parquet file a stay, grouped into sets", WANTED)]


def _stays_per_second(data: CohortDataModule) -> float:
    """Over a whole epoch, including the layout of its batches and the start of its workers."""
    n_stays = sum(batch.n_stays for batch in data.loader("train"))
    return n_stays / seconds(lambda: list(data.loader("train", shuffle=True)), REPEATS)


def workers(cohort: Path) -> list[Measurement]:
    """Compare the loader in this process with two worker processes."""
    data = _data(cohort)
    alone = _stays_per_second(data)
    data.num_workers = 2
    measurement = Measurement(f"loader with 2 workers, batches of {BATCH_SIZES[0]}", _stays_per_second(data), "stays/s")
    return [measurement.against(alone, "num_workers 0")]


def training(cohort: Path, n_read: int) -> list[Measurement]:
    """How long an epoch of fine-tuning a small unfrozen model waits for data, and what two workers change."""
    quiet_lightning()
    data = _data(cohort)
    torch.manual_seed(0)
    sizes = Sizes(input_dim=data.cohort.embeddings.shape[1], transformer_dropout=0.1, **PRESETS["small"])
    module = fine_tuner(sizes, torch.from_numpy(data.cohort.embeddings.copy()).float())
    module.unfreeze_backbone()
    alone, alone_waits = _epoch(module, data, n_read)
    data.num_workers = 2
    ours, ours_wait = _epoch(module, data, n_read)
    measurements = [
        Measurement("waiting for data, num_workers 0", 100 * alone_waits, "% of an epoch"),
        Measurement("waiting for data, num_workers 2", 100 * ours_wait, "% of an epoch"),
        Measurement("fine-tuning with num_workers 2", ours, "stays/s").against(alone, "num_workers 0"),
    ]
    return with_note(f"small model, all of it trained, batches of {BATCH_SIZES[0]}", measurements)


def _epoch(module: SeqSetVAEFineTuner, data: CohortDataModule, n_stays: int) -> tuple[float, float]:
    """(stays per second, share of the time spent waiting) in the second of two epochs, by the clock of our runs."""
    clock = Clock()
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[clock],
        limit_train_batches=max(1, n_stays // data.batch_size),
        limit_val_batches=0,
        reload_dataloaders_every_n_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return clock.stays / clock.seconds, clock.waiting / clock.seconds
