"""Cohorts of millions of stays, whole and in shards: `python -m benchmarks.scale --stays 10000000 --shards 10`.

SYNTHETIC stays of 2 to 4 sets of 1 to 3 events, each a function of its number, are compiled at once and in shards that
are joined; the two results must be equal to the last bit. Then the cohort is read for an epoch and predicted. Each step
runs in a process of its own with one reading thread. Ten million stays take 3 GB of disk.

Memory is the process's own at most (RssAnon), which the kernel cannot drop, and all that was resident, which counts
pages of memory-mapped arrays.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Measurement, isolated, table
from seqsetvae.batches.loading import CohortDataModule
from seqsetvae.cohort import open_cohort
from seqsetvae.cohort.compile import compile_cohort
from seqsetvae.cohort.sidefiles import LabelTable
from seqsetvae.cohort.sources.opened import Opened
from seqsetvae.cohort.sources.shards import Joined, Part, as_shard
from seqsetvae.cohort.tidy import Rows, Skip, Stays, UnnamedRows
from seqsetvae.system.resources import peak_mib, status_mib

LABEL = "in_hospital_mortality"
N_VARIABLES = 40
BATCH_SIZE = 256
FEW = 2_000  # stays that the model is trained on
TRAIN = [
    *("--mode", "finetune", "--preset", "small", "--from_random_weights", "--accelerator", "cpu"),
    *("--max_epochs", "1", "--unfreeze_after", "0", "--batch_size", "64"),
]


class NumberedStays:
    """Synthetic stays that depend on their number alone, however they are divided; see the Source protocol."""

    def __init__(self, n_stays: int) -> None:
        self.description = f"synthetic, no real patients (benchmarks.scale, {n_stays} stays)"
        stays, n_valid = Stays(np.arange(n_stays), str, n_rows=np.broadcast_to(6, n_stays)), n_stays // 5
        self.stays = {"train": stays[n_valid:], "valid": stays[:n_valid]}
        self.skips: list[Skip] = []
        self.unnamed_rows = UnnamedRows()

    def read(self, stays: Stays) -> Rows:
        n_sets = 2 + _hashed(stays.stay_id) % 3
        set_of = _positions(stays.stay_id, n_sets)
        n_events = 1 + _hashed(set_of) % 3
        event = _hashed(_positions(set_of, n_events))
        minute = 60.0 * (set_of % 16)
        return Rows(
            stays=stays,
            n_rows=np.add.reduceat(n_events, np.cumsum(n_sets) - n_sets).astype(np.int64),
            names=[f"variable {i}" for i in range(N_VARIABLES)],
            variable=(event % N_VARIABLES).astype(np.int32),
            value=(event >> 32) / 2.0**31,
            minute=np.repeat(minute, n_events),
            set_index=None,
            has_set_index=np.zeros(len(stays), dtype=bool),
        )


def _positions(numbers: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """16 * number + 0, 1, ..., count - 1 for each number, one after the other."""
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(16 * numbers, counts) + within


def _hashed(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Well mixed numbers from 0 to 2^63 - 1 (the finalizer of splitmix64)."""
    mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def opened(n_stays: int) -> Opened:
    """So many stays, about every eighth with label 1."""
    labels = LabelTable(np.arange(n_stays), (_hashed(np.arange(n_stays)) % 8 == 0).astype(np.int8))
    return Opened(source=NumberedStays(n_stays), label_name=LABEL, labels=labels)


def _compile(given: Opened, out: Path) -> None:
    compile_cohort(**vars(given), out=out, jobs=1, progress=False)


def compile_whole(n_stays: int, folder: Path) -> None:
    _compile(opened(n_stays), folder / "whole")


def compile_shard(n_stays: int, part: Part, folder: Path) -> None:
    (folder / "shards").mkdir(exist_ok=True)
    _compile(as_shard(opened(n_stays), part), folder / "shards" / f"{part.number}")


def join(folder: Path) -> None:
    shards = Joined(folder / "shards")
    given = Opened(source=shards, label_name=shards.cohorts[0].label_name, labels=shards.labels())
    _compile(given, folder / "joined")
    if open_cohort(folder / "joined", verify=False).content_hash != content_hash(folder / "whole"):
        raise AssertionError("the joined shards are not the cohort of one compilation")


def content_hash(cohort: Path) -> str:
    return open_cohort(cohort, verify=False).content_hash


def load(folder: Path) -> None:
    """Open the cohort with all its checks, and take every training batch once."""
    data = CohortDataModule(open_cohort(folder / "whole"), batch_size=BATCH_SIZE, max_events=65536)
    for batch in data.loader("train", shuffle=True, epoch=0):
        assert batch.n_stays <= BATCH_SIZE


def train_few(folder: Path) -> None:
    """Train a model on a few of the same kind of stays."""
    _compile(opened(FEW), folder / "few")
    _command(*TRAIN, "--data_dir", folder / "few", "--output_root_dir", folder / "runs")


def predict(folder: Path, cohort: str) -> None:
    (run,) = (folder / "runs").glob("finetune-*")
    output = folder / f"{cohort}.parquet"
    words = ("--mode", "predict", "--ckpt", run, "--batch_size", BATCH_SIZE, "--accelerator", "cpu")
    _command(*words, "--data_dir", folder / cohort, "--output", output)


def _command(*words: object) -> None:
    import train_optimized

    status = train_optimized.main([str(word) for word in words])
    if status not in (0, 3):  # 3: predicted, and the stays are not like those of training
        raise AssertionError(f"exit status {status}")


def own_memory(stage: str, n_stays: int, work: Callable[[], object]) -> list[Measurement]:
    """Most memory of its own (RssAnon) that this process has during the work, read every 5 ms."""
    done = threading.Event()
    readings = [status_mib("RssAnon")]

    def watch() -> None:
        while not done.wait(0.005):
            readings.append(status_mib("RssAnon"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    what, note = f"own memory to {stage} {n_stays:,} stays", f"beyond {readings[0]:,.0f} MiB before"
    return [Measurement(what, max(readings) - readings[0], "MiB", note=note)]


def measured(what: str, n_stays: int, work: Callable[..., object], *arguments: object) -> list[Measurement]:
    """Processor time and memory of one step in this process, which runs nothing else."""
    start, cpu = time.perf_counter(), time.process_time()
    memory = own_memory(what, n_stays, lambda: work(*arguments))
    note = f"of the processor; {time.perf_counter() - start:,.0f} s on the clock"
    took = Measurement(f"{what} {n_stays:,} stays", time.process_time() - cpu, "s", note=note, peak_mib=peak_mib())
    measurements = [took, *memory]
    print(table(what, measurements), flush=True)
    return measurements


def section(n_stays: int, n_shards: int, n_predicted: int, folder: Path) -> list[Measurement]:
    """Measurements of all steps."""
    measurements = isolated(measured, "compile", n_stays, compile_whole, n_stays, folder)
    for number in range(1, n_shards + 1):
        part = Part(number, n_shards)
        name = f"shard {number}/{n_shards} of"
        measurements += isolated(measured, name, n_stays, compile_shard, n_stays, part, folder)
    measurements += isolated(measured, "join", n_stays, join, folder)
    for name in ("whole", "shards"):
        size = sum(file.stat().st_size for file in (folder / name).rglob("*") if file.is_file())
        measurements.append(Measurement(f"{name} on disk", size / 2**20, "MiB"))
    measurements += isolated(measured, "load an epoch of", n_stays, load, folder)
    isolated(measured, "train", FEW, train_few, folder)
    if n_predicted != n_stays:
        _compile(opened(n_predicted), folder / "predicted")
    name = "whole" if n_predicted == n_stays else "predicted"
    return measurements + isolated(measured, "predict", n_predicted, predict, folder, name)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stays", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--predict", type=int, help="predict so many stays (default: all)")
    parser.add_argument("--folder", type=Path, help="where to write, on a disk with enough space")
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        predicted = options.predict or options.stays
        print(table("Scale (SYNTHETIC stays)", section(options.stays, options.shards, predicted, Path(name))))


if __name__ == "__main__":
    main()
