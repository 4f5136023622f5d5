"""From the old layout to batches, against reading one parquet file at a time, as the old scripts did.

Both sides read the same stays, in one run, from a warm file cache, so that neither is helped by a disk.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.measure import Figure, compared, isolated, once, seconds
from benchmarks.works import fine_tuner, first
from model_optimized import SeqSetVAEFineTuner
from seqsetvae.architectures.seqsetvae.sizes import PRESETS, Sizes
from seqsetvae.cohort import open_cohort, open_or_compile
from seqsetvae.cohort.export import write_layout
from seqsetvae.cohort.find import compile_layout, locate_layout
from seqsetvae.cohort.sources.synthetic import write_synthetic
from seqsetvae.loading import CohortDataModule
from seqsetvae.training.callbacks import Clock
from seqsetvae.training.stages import quiet_lightning

N_STAYS = 2_000  # files of the old layout
N_READ = 300  # stays that the slow baseline reads, and that are trained on
BATCH_SIZES = (8, 32)
MAX_EVENTS = 65_536
REPEATS = 3
WANTED = 50.0  # times as many stays a second from the compiled cohort as from parquet files

OldSet = tuple[torch.Tensor, torch.Tensor, float]  # variables, z-scores, minute


def run(data_dir: Path | None, scratch: Path, n_stays: int = N_STAYS, n_read: int = N_READ) -> list[Figure]:
    """All figures, over the first `n_stays` training stays of a compiled cohort, or over synthetic stays."""
    layout = _old_layout(data_dir, scratch / "old layout", n_stays)
    cohort = compile_layout(locate_layout(layout), scratch / "compiled", progress=False).path
    figures = isolated(compiling, layout, scratch)
    for batch_size in BATCH_SIZES:
        figures += isolated(loading, cohort, layout, batch_size, n_read)
    figures += isolated(workers, cohort) + isolated(training, cohort, n_read)
    source = open_cohort(data_dir or cohort, verify=False).manifest["source"]
    origin = "synthetic stays" if "synthetic" in source else "real stays"
    return [replace(figure, note=f"{origin}; {figure.note}".rstrip("; ")) for figure in figures]


def _old_layout(data_dir: Path | None, out: Path, n_stays: int) -> Path:
    """A patient_ehr folder of about this many stays."""
    if data_dir is None:
        return write_synthetic(out, n_stays=n_stays)
    cohort = open_cohort(data_dir)
    return write_layout(replace(cohort, splits={"train": first(cohort.split("train"), n_stays)}), out)


# ------------------------------------------------------------------ old layout -> compiled cohort


def compiling(layout: Path, scratch: Path) -> list[Figure]:
    """Files a second that are compiled, against files a second that pandas merely reads."""
    files = sorted(layout.glob("*/*.parquet"))
    for file in files:
        file.read_bytes()  # into the file cache, for both sides
    cache = scratch / "cache"
    pandas = len(files) / once(lambda: [pd.read_parquet(file) for file in files])
    speeds = {
        "compile an old layout (data.py compile)": once(
            lambda: compile_layout(locate_layout(layout), scratch / "again", progress=False)
        ),
        "first start on an old layout (hash, compile, hash, verify)": once(
            lambda: open_or_compile(layout, cache_root=cache, progress=False)
        ),
        "later start on an old layout (hash, verify)": once(
            lambda: open_or_compile(layout, cache_root=cache, progress=False)
        ),
    }
    return [
        compared(what, len(files) / spent, "files/s", baseline=pandas, baseline_is="pandas.read_parquet, one by one")
        for what, spent in speeds.items()
    ]


# ------------------------------------------------------------------ batches


class OldStays(Dataset[list[OldSet]]):
    """One stay an item, as old scripts read it: its parquet file, z-scores by name, one pair of tensors a set.

    The embeddings of the events, which such scripts looked up here too, are left out.
    """

    def __init__(self, layout: Path, files: Sequence[Path]) -> None:
        with (layout.parent / "stats.csv").open(newline="", encoding="utf-8") as stream:
            stats = {row["variable"]: (float(row["mean"]), float(row["std"])) for row in csv.DictReader(stream)}
        self.files = files
        self.mean = {name: mean for name, (mean, _) in stats.items()}
        self.std = {name: std for name, (_, std) in stats.items()}
        self.code = {name: code for code, name in enumerate(sorted(stats))}

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


def loading(cohort: Path, layout: Path, batch_size: int, n_read: int) -> list[Figure]:
    """Stays a second of an epoch of shuffled batches, against a loader that reads a file for each stay."""
    opened = open_cohort(cohort)
    few = first(opened.split("train"), n_read)
    file_of = {int(float(file.stem)): file for file in (layout / "train").glob("*.parquet")}
    files = [file_of[stay] for stay in few.stay_id.tolist()]
    old: DataLoader[list[OldSet]] = DataLoader(OldStays(layout, files), batch_size, shuffle=True, collate_fn=list)
    data = CohortDataModule(replace(opened, splits={"train": few}), batch_size=batch_size, max_events=MAX_EVENTS)
    ours = _stays_a_second(data)
    read_only = len(files) / once(lambda: [pd.read_parquet(file) for file in files])
    theirs = len(files) / seconds(lambda: list(old), repeats=1)
    return [
        compared(
            f"loader, batches of {batch_size}",
            ours,
            "stays/s",
            baseline=theirs,
            baseline_is="a parquet file a stay, grouped into sets",
            wanted=WANTED,
            note=f"{ours / read_only:,.0f} times pandas.read_parquet alone; median of {REPEATS}, the baseline once",
        )
    ]


def _stays_a_second(data: CohortDataModule) -> float:
    """Of a whole epoch, the layout of its batches and the start of its workers included."""
    n_stays = sum(batch.n_stays for batch in data.loader("train"))
    return n_stays / seconds(lambda: list(data.loader("train", shuffle=True)), REPEATS)


def workers(cohort: Path) -> list[Figure]:
    """The same loader in this process and with two processes of its own."""
    data = CohortDataModule(open_cohort(cohort), batch_size=BATCH_SIZES[0], max_events=MAX_EVENTS)
    alone = _stays_a_second(data)
    data.num_workers = 2
    ours = _stays_a_second(data)
    what = f"loader with 2 workers, batches of {BATCH_SIZES[0]}"
    return [compared(what, ours, "stays/s", baseline=alone, baseline_is="num_workers 0")]


# ------------------------------------------------------------------ waiting while training


def training(cohort: Path, n_read: int) -> list[Figure]:
    """How long an epoch of fine-tuning a small unfrozen model waits for data, and what two workers change."""
    quiet_lightning()
    data = CohortDataModule(open_cohort(cohort), batch_size=BATCH_SIZES[0], max_events=MAX_EVENTS)
    torch.manual_seed(0)
    sizes = Sizes(input_dim=data.cohort.embeddings.shape[1], transformer_dropout=0.1, **PRESETS["small"])
    module = fine_tuner(sizes, torch.from_numpy(data.cohort.embeddings.copy()).float())
    module.unfreeze_backbone()
    alone, alone_waits = _epoch(module, data, n_read)
    data.num_workers = 2
    ours, ours_wait = _epoch(module, data, n_read)
    model = f"small model, all of it trained, batches of {BATCH_SIZES[0]}"
    return [
        Figure(what="waiting for data, num_workers 0", value=100 * alone_waits, unit="% of an epoch", note=model),
        Figure(what="waiting for data, num_workers 2", value=100 * ours_wait, unit="% of an epoch", note=model),
        compared(
            "fine-tuning with num_workers 2", ours, "stays/s", baseline=alone, baseline_is="num_workers 0", note=model
        ),
    ]


def _epoch(module: SeqSetVAEFineTuner, data: CohortDataModule, n_stays: int) -> tuple[float, float]:
    """(stays per second, share of the time spent waiting) in the second of two epochs, by the product's own clock."""
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
