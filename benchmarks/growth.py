"""What a thousand times as many stays cost: `python -m benchmarks.growth --sizes 1000 10000 100000 1000000`.

SYNTHETIC stays of about 10 sets of 3 events, drawn as they are asked for, are compiled and then read for an epoch; each
stage of each size in a process of its own, for speed in turn. Neither the time for a stay nor memory should rise with
their number, except for a few tens of bytes of index for each stay. A million stays take 1.2 GB of disk and four
minutes.

Two figures of memory: the peak of all resident memory, which counts pages of the memory-mapped arrays although the
kernel may drop them at any time, and the process's own (RssAnon), which it must find room for.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.measure import STATUS, Figure, apart, compared, isolated, table
from seqsetvae.cohort import compile_cohort, content_key, open_cohort
from seqsetvae.cohort.find import LayoutFiles
from seqsetvae.cohort.sidefiles import LabelTable, read_labels
from seqsetvae.cohort.sources.seqsetvae_layout import SeqSetVAELayout
from seqsetvae.cohort.tidy import Rows, Skip, Stay, StayFiles, UnnamedRows
from seqsetvae.loading import CohortDataModule

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
        file = np.broadcast_to(np.array(b"drawn"), n_stays)
        self.stays = {"train": StayFiles(Path("synthetic"), np.arange(n_stays), file)}
        self.skips: list[Skip] = []
        self.unnamed_rows = UnnamedRows()

    def read(self, stays: Sequence[Stay]) -> Rows:
        rng = np.random.default_rng(stays[0].stay_id)
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


class OwnMemory:
    """Most memory of its own (RssAnon, in MiB) that this process has while a block runs, looked at every 5 ms."""

    def __enter__(self) -> OwnMemory:
        self.start = self.peak = _own_mib()
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, _own_mib())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._watch.join()


def _own_mib() -> float:
    kib = next(line.split()[1] for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(kib) / 1024


def compile_drawn(n_stays: int, out: Path) -> None:
    """Compile so many synthetic stays."""
    labels = LabelTable(np.arange(n_stays), (np.arange(n_stays) % 2).astype(np.int8))
    compile_cohort(DrawnStays(n_stays), out, label_name=LABEL, labels=labels, embedding_dim=8, progress=False)


def open_drawn(n_stays: int, folder: Path) -> CohortDataModule:
    """Loaders over the stays that `compiling` has compiled."""
    return CohortDataModule(open_cohort(folder / f"{n_stays}"), batch_size=BATCH_SIZE, max_events=65536)


def read_epoch(data: CohortDataModule, epoch: int) -> None:
    """Take every batch of an epoch."""
    for batch in data.loader("train", shuffle=True, epoch=epoch):
        assert batch.n_stays <= BATCH_SIZE


def compiling(n_stays: int, folder: Path) -> list[Figure]:
    """Memory of a compilation, which stays in the folder."""
    with OwnMemory() as memory:
        compile_drawn(n_stays, folder / f"{n_stays}")
    return [_own("compile", n_stays, memory)]


def loading(n_stays: int, folder: Path) -> list[Figure]:
    """Memory of two epochs, that of opening the cohort with all its checks included."""
    with OwnMemory() as memory:
        data = open_drawn(n_stays, folder)
        read_epoch(data, 0)
        read_epoch(data, 1)
    return [_own("load an epoch of", n_stays, memory)]


def _own(stage: str, n_stays: int, memory: OwnMemory) -> Figure:
    what, note = f"own memory to {stage} {n_stays:,} stays", f"beyond {memory.start:,.0f} MiB before"
    return Figure(what=what, value=memory.peak - memory.start, unit="MiB", note=note)


def compile_again(n_stays: int, folder: Path) -> Callable[[], None]:
    """A work: compile ENOUGH stays, so many at a time, to be thrown away."""

    def work() -> None:
        for _ in range(_times(n_stays)):
            with tempfile.TemporaryDirectory(dir=folder) as out:
                compile_drawn(n_stays, Path(out) / "cohort")

    return work


def load_again(n_stays: int, folder: Path) -> Callable[[], None]:
    """A work: read ENOUGH stays."""
    data = open_drawn(n_stays, folder)

    def work() -> None:
        for epoch in range(_times(n_stays)):
            read_epoch(data, epoch)

    return work


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
    work: dict[str, Callable[[], object]] = {
        "list the files": lambda: SeqSetVAELayout(patient_ehr),
        "read the labels": lambda: read_labels(folder / "oc.csv", LABEL),
        "hash the files for the cache": lambda: content_key(files, LABEL, skip_bad=False),
    }
    return [_traced(what, one, n_files) for what, one in work.items()]


def _traced(what: str, work: Callable[[], object], n_files: int) -> Figure:
    tracemalloc.start()
    kept_by = work()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept_by
    note = f"for each of {n_files:,} files of an old layout, at most; {kept / n_files:,.0f} are kept"
    return Figure(what=what, value=peak / n_files, unit="bytes/stay", note=note)


def run(data_dir: Path | None, scratch: Path, sizes: Sequence[int] = SIZES) -> list[Figure]:
    """Figures of all sizes; the stays are always synthetic, whatever `data_dir` holds."""
    del data_dir
    sizes = sorted(sizes)
    figures = []
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        for stage, memory_of, build in (
            ("compile", compiling, compile_again),
            ("load an epoch of", loading, load_again),
        ):
            memory = [figure for n_stays in sizes for figure in isolated(memory_of, n_stays, folder)]
            figures += [*_speeds(stage, build, sizes, folder), *memory, *_each_further(stage, memory, sizes)]
        figures += isolated(listing, min(sizes[-1], MOST_FILES), folder)
    return [replace(figure, note=f"synthetic; {figure.note}".rstrip("; ")) for figure in figures]


def _speeds(
    stage: str, build: Callable[[int, Path], Callable[[], None]], sizes: Sequence[int], folder: Path
) -> list[Figure]:
    """Stays/s of each size, in turn, against the fastest of the smaller sizes."""
    figures: list[Figure] = []
    timed = apart([partial(build, n_stays, folder) for n_stays in sizes], TURNS)
    for n_stays, took in zip(sizes, timed, strict=True):
        what, speed = f"{stage} {n_stays:,} stays", n_stays * _times(n_stays) / took.seconds
        if figures:
            best = max(figures, key=lambda figure: figure.value)
            against: dict[str, Any] = {"baseline": best.value, "baseline_is": best.what}
            figures.append(compared(what, speed, "stays/s", **against, wanted=FLAT, peak_mib=took.peak_mib))
        else:
            figures.append(Figure(what=what, value=speed, unit="stays/s", peak_mib=took.peak_mib))
    return figures


def _each_further(stage: str, memory: Sequence[Figure], sizes: Sequence[int]) -> list[Figure]:
    """What a further stay costs in memory, from the two largest: smaller ones do not fill the compiler's buffers."""
    if len(sizes) < 2:
        return []
    more = (memory[-1].value - memory[-2].value) * 2**20 / (sizes[-1] - sizes[-2])
    note = f"from {sizes[-2]:,} to {sizes[-1]:,} stays"
    what = f"own memory to {stage.removesuffix(' an epoch of')} each further stay"
    return [Figure(what=what, value=more, unit="bytes", note=note)]


def main() -> None:
    """Print the table of the sizes asked for."""

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of stays")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(table("Growth (SYNTHETIC stays)", run(None, Path(scratch), arguments.sizes)))


if __name__ == "__main__":
    main()
