"""What a thousand times as many stays cost: `python -m benchmarks.growth --sizes 1000 10000 100000 1000000`.

SYNTHETIC stays of about 10 sets of 3 events, drawn as they are read, are compiled and then read for an epoch; each
stage of each size in a process of its own, for speed in turn. Neither the time for a stay nor memory should rise with
their number, except for a few tens of bytes of index for each stay. A million stays take 1.2 GB of disk and four
minutes.

There are two figures of memory: the peak of all resident memory, which counts pages of the memory-mapped arrays
although the kernel may drop them at any time, and the process's own (RssAnon), which the kernel cannot drop.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measure import Figure, apart, isolated, table, with_note
from seqsetvae.batches.loading import CohortDataModule
from seqsetvae.cohort import compile_cohort, content_key, open_cohort
from seqsetvae.cohort.find import LayoutFiles
from seqsetvae.cohort.sidefiles import LabelTable, read_labels
from seqsetvae.cohort.sources.seqsetvae_layout import SeqSetVAELayout
from seqsetvae.cohort.tidy import Rows, Skip, Stays, UnnamedRows
from seqsetvae.system.memory import status_mib

SIZES = (1_000, 10_000, 100_000, 1_000_000)
BATCH_SIZE = 32
ENOUGH = 50_000  # stays that a time is taken of: small cohorts are compiled and read repeatedly
TURNS = 3
MOST_FILES = 20_000  # of an old layout; a million small files would measure the file system
FLAT = 0.8  # least speed over that of the fastest smaller cohort that counts as flat
LABEL = "in_hospital_mortality"


class DrawnStays:
    """Synthetic stays of 5 to 15 sets of 1 to 5 events, drawn when they are read; see the Source protocol."""

    description = "synthetic, no real patients (benchmarks.growth)"

    def __init__(self, n_stays: int) -> None:
        self.stays = {"train": Stays(np.arange(n_stays), str)}
        self.skips: list[Skip] = []
        self.unnamed_rows = UnnamedRows()

    def read(self, stays: Stays) -> Rows:
        rng = np.random.default_rng(int(stays.stay_id[0]))
        n_sets = rng.integers(5, 16, len(stays))
        n_events = rng.integers(1, 6, n_sets.sum())
        first_set = np.cumsum(n_sets) - n_sets
        minute = 30.0 * (np.arange(len(n_events)) - np.repeat(first_set, n_sets))
        n_rows = n_events.sum()
        return Rows(
            stays=stays,
            n_rows=np.add.reduceat(n_events, first_set),
            names=[f"variable {i}" for i in range(40)],
            variable=rng.integers(0, 40, n_rows, dtype=np.int32),
            value=rng.normal(size=n_rows),
            minute=np.repeat(minute, n_events),
            set_index=None,
            has_set_index=np.zeros(len(stays), dtype=bool),
        )


def compile_drawn(n_stays: int, out: Path) -> None:
    """Compile `n_stays` synthetic stays."""
    labels = LabelTable(np.arange(n_stays), (np.arange(n_stays) % 2).astype(np.int8))
    compile_cohort(DrawnStays(n_stays), out, label_name=LABEL, labels=labels, progress=False)


def read_epochs(n_epochs: int, data: CohortDataModule) -> None:
    """Take every batch of each epoch."""
    for epoch in range(n_epochs):
        for batch in data.loader("train", shuffle=True, epoch=epoch):
            assert batch.n_stays <= BATCH_SIZE


def open_drawn(n_stays: int, folder: Path) -> CohortDataModule:
    """Loaders over the stays that `memory_to_compile` has compiled."""
    return CohortDataModule(open_cohort(folder / f"{n_stays}"), batch_size=BATCH_SIZE, max_events=65536)


def memory_to_compile(n_stays: int, folder: Path) -> list[Figure]:
    """Memory of a compilation, whose result stays in the folder."""
    return own_memory("compile", n_stays, lambda: compile_drawn(n_stays, folder / f"{n_stays}"))


def memory_to_load(n_stays: int, folder: Path) -> list[Figure]:
    """Memory of two epochs, including that of opening the cohort with all its checks."""
    return own_memory("load an epoch of", n_stays, lambda: read_epochs(2, open_drawn(n_stays, folder)))


def own_memory(stage: str, n_stays: int, work: Callable[[], object]) -> list[Figure]:
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
    return [Figure(what, max(readings) - readings[0], "MiB", note=note)]


def compile_again(n_stays: int, folder: Path) -> Callable[[], None]:
    """A run compiles ENOUGH stays, `n_stays` at a time, and deletes them."""

    def run() -> None:
        for _ in range(_times(n_stays)):
            with tempfile.TemporaryDirectory(dir=folder) as out:
                compile_drawn(n_stays, Path(out) / "cohort")

    return run


def load_again(n_stays: int, folder: Path) -> Callable[[], None]:
    """A run reads ENOUGH stays."""
    return partial(read_epochs, _times(n_stays), open_drawn(n_stays, folder))


def _times(n_stays: int) -> int:
    return max(1, ENOUGH // n_stays)


def listing(n_files: int, folder: Path) -> list[Figure]:
    """Bytes of Python's memory at most, for each of many files, while an old layout is listed, labelled and hashed."""
    patient_ehr = folder / "patient_ehr"
    (patient_ehr / "train").mkdir(parents=True)
    for number in range(n_files):
        (patient_ehr / "train" / f"{200_000 + number}.0.parquet").touch()  # names count here, not rows
    files = LayoutFiles(patient_ehr, stats=folder / "stats.csv", labels=folder / "oc.csv", embeddings=None)
    (folder / "stats.csv").write_text("variable,mean,std\n")
    (folder / "oc.csv").write_text("".join([f"ts_id,{LABEL}\n", *(f"{200_000 + i},{i % 2}\n" for i in range(n_files))]))
    return [
        _traced("list the files", n_files, lambda: SeqSetVAELayout(patient_ehr)),
        _traced("read the labels", n_files, lambda: read_labels(folder / "oc.csv", LABEL)),
        _traced("hash the files for the cache", n_files, lambda: content_key(files, LABEL, skip_bad=False)),
    ]


def _traced(what: str, n_files: int, work: Callable[[], object]) -> Figure:
    tracemalloc.start()
    result = work()  # it lives until its memory has been counted
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del result
    note = f"for each of {n_files:,} files of an old layout, at most; {kept / n_files:,.0f} are kept"
    return Figure(what, peak / n_files, "bytes/stay", note=note)


def section(data_dir: Path | None, scratch: Path, sizes: Sequence[int] = SIZES) -> list[Figure]:
    """Figures of all sizes; the stays are always synthetic, whatever `data_dir` holds."""
    sizes = sorted(sizes)
    figures = []
    stages = (("compile", memory_to_compile, compile_again), ("load an epoch of", memory_to_load, load_again))
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        for stage, memory_of, build in stages:
            memory = [figure for n_stays in sizes for figure in isolated(memory_of, n_stays, folder)]
            figures += [*_speeds(stage, build, sizes, folder), *memory, *_each_further(stage, memory, sizes)]
        figures += isolated(listing, min(sizes[-1], MOST_FILES), folder)
    return with_note("synthetic", figures)


def _speeds(
    stage: str, build: Callable[[int, Path], Callable[[], None]], sizes: Sequence[int], folder: Path
) -> list[Figure]:
    """Stays/s of each size, in turn, against the fastest of the smaller sizes."""
    figures: list[Figure] = []
    timed = apart([partial(build, n_stays, folder) for n_stays in sizes], TURNS)
    for n_stays, took in zip(sizes, timed, strict=True):
        what, speed = f"{stage} {n_stays:,} stays", n_stays * _times(n_stays) / took.seconds
        figure = Figure(what, speed, "stays/s", peak_mib=took.peak_mib)
        best = max(figures, key=lambda smaller: smaller.value, default=None)
        figures.append(figure.against(best.value, best.what, FLAT) if best else figure)
    return figures


def _each_further(stage: str, memory: Sequence[Figure], sizes: Sequence[int]) -> list[Figure]:
    """Memory for each further stay, from the two largest sizes: smaller ones do not fill the compiler's buffers."""
    if len(sizes) < 2:
        return []
    more = (memory[-1].value - memory[-2].value) * 2**20 / (sizes[-1] - sizes[-2])
    what = f"own memory to {stage.removesuffix(' an epoch of')} each further stay"
    return [Figure(what, more, "bytes", note=f"from {sizes[-2]:,} to {sizes[-1]:,} stays")]


def main() -> None:
    """Print the table for the sizes of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of stays")
    sizes = parser.parse_args().sizes
    with tempfile.TemporaryDirectory() as scratch:
        print(table("Growth (SYNTHETIC stays)", section(None, Path(scratch), sizes)))


if __name__ == "__main__":
    main()
