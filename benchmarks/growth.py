"""What a thousand times as many stays cost: `python -m benchmarks.growth --sizes 1000 10000 100000 1000000`.

SYNTHETIC stays of about 10 sets of 3 events, drawn as they are asked for, are compiled and then read for an epoch; each
stage of each size in a process of its own. Neither the time for a stay nor memory should rise with their number, except
for a few tens of bytes of index for each stay. A million stays take 0.6 GB of disk and two to four minutes.

Two figures of memory: the peak of all resident memory, which counts pages of the memory-mapped arrays although the
kernel may drop them at any time, and the process's own (RssAnon), which it must find room for.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from benchmarks.measure import STATUS, Figure, isolated
from seqsetvae.cohort import compile_cohort, content_key, open_cohort
from seqsetvae.cohort.find import LayoutFiles
from seqsetvae.cohort.sidefiles import LabelTable, read_labels
from seqsetvae.cohort.sources.seqsetvae_layout import SeqSetVAELayout
from seqsetvae.cohort.tidy import Rows, Skip, Stay, StayFiles
from seqsetvae.loading import CohortDataModule

SIZES = (1_000, 10_000, 100_000, 1_000_000)
BATCH_SIZE = 32
ENOUGH = 50_000  # stays that a figure of speed is made of: small cohorts are compiled and read repeatedly
MOST_FILES = 20_000  # of an old layout; a million small files would measure the file system
FLAT = 0.8  # least processor time a stay of smaller cohorts over that of a larger one which counts as flat
LABEL = "in_hospital_mortality"


class DrawnStays:
    """Synthetic stays of 5 to 15 sets of 1 to 5 events, drawn when they are read; see the Source protocol."""

    description = "synthetic, no real patients (benchmarks.growth)"

    def __init__(self, n_stays: int) -> None:
        file = np.broadcast_to(np.array(b"drawn"), n_stays)
        self.stays = {"train": StayFiles(Path("synthetic"), np.arange(n_stays), file)}
        self.skips: list[Skip] = []

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


def compiling(n_stays: int, folder: Path) -> list[Figure]:
    """Speed and memory of a compilation into folder/0."""

    def compile_into(name: int, n: int = n_stays) -> None:
        labels = LabelTable(np.arange(n), (np.arange(n) % 2).astype(np.int8))
        source, out = DrawnStays(n), folder / str(name)
        compile_cohort(source, out, label_name=LABEL, labels=labels, embedding_dim=8, progress=False)

    with OwnMemory() as memory:
        compile_into(-1, n=256)  # what is done once in a process is no stay's
        times = _times(compile_into, n_stays, at_least=1)
    for surplus in (-1, *range(1, len(times))):
        shutil.rmtree(folder / str(surplus))
    return _figures("compile", n_stays, times, memory)


def loading(n_stays: int, folder: Path) -> list[Figure]:
    """Speed of epochs of folder/0, and memory, that of opening it with all its checks included."""

    def read_epoch(epoch: int) -> None:
        for batch in data.loader("train", shuffle=True, epoch=epoch):
            assert batch.n_stays <= BATCH_SIZE

    with OwnMemory() as memory:
        data = CohortDataModule(open_cohort(folder / "0"), batch_size=BATCH_SIZE, max_events=65536)
        times = _times(read_epoch, n_stays, at_least=2)
    return _figures("load an epoch of", n_stays, times, memory)


def _times(work: Callable[[int], None], n_stays: int, at_least: int) -> list[tuple[float, float]]:
    """Seconds by the clock and of the processor that work(0), work(1), ... took, until ENOUGH stays were seen."""
    times = []
    for i in range(max(at_least, ENOUGH // n_stays)):
        start, cpu = time.perf_counter(), time.process_time()
        work(i)
        times.append((time.perf_counter() - start, time.process_time() - cpu))
    return times


def _figures(verb: str, n_stays: int, times: list[tuple[float, float]], memory: OwnMemory) -> list[Figure]:
    """Speed by the clock, processor time, own memory."""
    what, beyond = f"{verb} {n_stays:,} stays", memory.peak - memory.start
    wall, cpu = (sum(seconds) / (n_stays * len(times)) for seconds in zip(*times, strict=True))  # of one stay
    return [
        Figure(what=what, value=1 / wall, unit="stays/s"),
        Figure(what=f"processor time to {what}", value=1e6 * cpu, unit="µs/stay"),
        Figure(what=f"own memory to {what}", value=beyond, unit="MiB", note=f"beyond {memory.start:,.0f} MiB before"),
    ]


def listing(n_files: int, folder: Path) -> list[Figure]:
    """Bytes of Python's memory at most, for each of many files, while an old layout is listed, labelled and hashed."""
    patient_ehr = folder / "patient_ehr"
    (patient_ehr / "train").mkdir(parents=True)
    for number in range(n_files):
        (patient_ehr / "train" / f"{200_000 + number}.0.parquet").touch()  # names count here, not rows
    files = LayoutFiles(patient_ehr, stats=folder / "stats.csv", labels=folder / "oc.csv", embeddings=None)
    files.stats.write_text("variable,mean,std\n")
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
    compiled, loaded = [], []  # [speed, processor time, memory] of each size
    for n_stays in sizes:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            compiled.append(isolated(compiling, n_stays, Path(folder)))
            loaded.append(isolated(loading, n_stays, Path(folder)))
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        listed = isolated(listing, min(sizes[-1], MOST_FILES), Path(folder))
    figures = [*_compared("compile", compiled, sizes), *_compared("load", loaded, sizes), *listed]
    return [replace(figure, note=f"synthetic; {figure.note}".rstrip("; ")) for figure in figures]


def _compared(stage: str, measured: list[list[Figure]], sizes: Sequence[int]) -> list[Figure]:
    """Each size's processor time against the least of the smaller sizes, and what a further stay costs in memory.

    Processor time, since other work on the machine changes what the clock says from one size to the next.
    """
    speeds, times, memories = zip(*measured, strict=True)
    figures = [*measured[0]]
    for at in range(1, len(measured)):
        least = min(times[:at], key=lambda figure: figure.value)
        ratio = least.value / times[at].value
        compared = replace(times[at], baseline=least.value, baseline_is=least.what, ratio=ratio, wanted=FLAT)
        figures += [speeds[at], compared, memories[at]]
    if len(sizes) > 1:  # of the two largest: smaller ones do not yet fill the compiler's buffers
        more = (memories[-1].value - memories[-2].value) * 2**20 / (sizes[-1] - sizes[-2])
        note = f"from {sizes[-2]:,} to {sizes[-1]:,} stays"
        figures.append(Figure(what=f"own memory to {stage} each further stay", value=more, unit="bytes", note=note))
    return figures


def main() -> None:
    """Print the table of the sizes asked for."""
    from benchmarks.__main__ import table  # here, since it imports this module for its list of sections

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of stays")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(table("Growth (SYNTHETIC stays)", run(None, Path(scratch), arguments.sizes)))


if __name__ == "__main__":
    main()
