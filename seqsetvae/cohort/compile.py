"""Tidy rows -> compiled cohort: ordered, cut into sets, checked and reported; values stay as they are.

Two passes. The first reads the source in chunks, in parallel, and appends values to the arrays on disk in the order of
the stays, so memory stays bounded and the result does not depend on the number of threads. Then the vocabulary is
known, and the second numbers variables by it in place and adds values up for statistics.
"""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from seqsetvae.cohort.cut import CutRows, SplitWriter, cut
from seqsetvae.cohort.format import SUMS, Cohort, event_blocks, open_cohort
from seqsetvae.cohort.imported import TIMESTAMPS, FaultyFiles, Imported, write_samples, write_skipped
from seqsetvae.cohort.manifest import write_manifest
from seqsetvae.cohort.sidefiles import Labels, LabelTable
from seqsetvae.cohort.spans import TIMES, Spans, refuse_other_clocks
from seqsetvae.cohort.tables.times import MINUTES
from seqsetvae.cohort.tidy import Skip, Source, Stays, UnnamedRows, require_separate_splits
from seqsetvae.cohort.variables import Block, Sums
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import new_folder

COMPILER_VERSION = 3  # raise it when the same input compiles to different arrays: old cache entries are then not found
ROWS_PER_CHUNK = 1 << 16

T = TypeVar("T")
R = TypeVar("R")


def compile_cohort(
    source: Source,
    out: str | Path,
    *,
    label_name: str,
    labels: Labels | None = None,
    imported: Imported | None = None,
    beside: Mapping[str, Path] = MappingProxyType({}),
    skip_bad: bool = False,
    set_hours: float | None = None,
    jobs: int | None = None,
    progress: bool = True,
) -> Cohort:
    """Compile a source into the new folder `out` and open it. docs/data-faults.md lists how faults are handled.

    Args:
        source: where the rows come from.
        out: a folder that does not exist yet; a failure leaves nothing there.
        label_name: what the labels mean, for the manifest.
        labels: 0 or 1 by stay number; without them, and for the stays they lack, the label is -1.
        imported: what an import adds to the cohort.
        beside: files to copy into the cohort by their names there, for models that will read it.
        skip_bad: leave faulty files out and list them in out/skipped.csv, instead of ending in one error about all.
        set_hours: events of a stay within so many hours are one set; None = events of one time are.
        jobs: threads that read and cut; None = one per core. They do not change the result.
        progress: show a progress bar if stderr is a terminal.

    Raises:
        InputError: the data have a fault; the message says what and where.
    """
    out = Path(out)
    if not label_name.strip():
        raise InputError(f"The name of the label is {label_name!r}: it must not be blank (--label_name).")
    stays = {split: Stays.from_list(some) for split, some in source.stays.items()}
    require_separate_splits(stays)
    with new_folder(out) as partial:
        unit = "file" if imported is None else "stay"
        tally = _Tally(source.unnamed_rows, FaultyFiles(unit=unit), LabelTable.from_dict(labels or {}))
        tally.write_stays(source, stays, partial, jobs or os.cpu_count() or 1, progress, set_hours)
        if not skip_bad:
            _refuse_faults(tally, label_name)
        times = "minutes" if imported is None else imported.record.get("times", "minutes")
        first = np.concatenate([np.zeros(0), *tally.spans.first])
        if times != TIMESTAMPS and len(first):
            refuse_other_clocks(first, MINUTES[times], times)
        _require_stays(tally)
        vocabulary = _number_variables(tally, partial, progress)
        for name, file in beside.items():
            shutil.copyfile(file, partial / name)
        write_skipped(partial, tally.skips)
        if imported is not None and imported.samples is not None:
            write_samples(partial, imported.samples, tally.skips)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        created = {"at": at, "compiler": COMPILER_VERSION, "numpy": np.__version__, "pyarrow": pa.__version__}
        described = source.description + ("" if set_hours is None else f", in sets of {set_hours:g} hours")
        head = {"created": created, "source": described, "label_name": label_name, "vocabulary": vocabulary}
        more = {} if imported is None else imported.as_plain()
        write_manifest(partial, head | more | _manifest(tally, skip_bad))
        open_cohort(partial, verify=False)  # what could not be read again must not take the name OUT
    return open_cohort(out, verify=False)


@dataclass
class _Tally:
    """What the first pass over the source collects."""

    unnamed_rows: UnnamedRows
    faulty: FaultyFiles
    labels: LabelTable
    code_of: dict[str, int] = field(default_factory=dict)  # name -> provisional code, in order of first appearance
    splits: dict[str, dict[str, int]] = field(default_factory=dict)  # counts by split
    groups: dict[str, list[tuple[str, int]]] = field(default_factory=dict)  # by split: (group, stays in a row)
    skips: list[Skip] = field(default_factory=list)
    n_reordered: int = 0
    spans: Spans = field(default_factory=Spans)

    def skip(self, skips: Sequence[Skip]) -> None:
        """Note what is left out."""
        self.skips.extend(skips)
        for skip in skips:
            if skip.is_fault:
                self.faulty.add(skip, self.labels)

    def codes(self, part: CutRows) -> NDArray[np.int32]:
        """[E] The provisional code of each event; new names get one."""
        present = np.unique(part.variable)  # a name may be left with none of its rows, when faulty stays go
        code = np.zeros(len(part.names), dtype=np.int32)
        for local in present:
            code[local] = self.code_of.setdefault(part.names[local], len(self.code_of))
        return code[part.variable]

    def write_stays(
        self,
        source: Source,
        stays: Mapping[str, Stays],
        folder: Path,
        jobs: int,
        progress: bool,
        set_hours: float | None,
    ) -> None:
        """The first pass: write values in order and provisional codes, and note what was learned."""

        def read(some: Stays) -> tuple[CutRows, int]:
            return cut(source.read(some), set_hours), len(some)

        self.skip(source.skips)
        n_stays = sum(map(len, stays.values()))
        with (
            tqdm(total=n_stays, desc="Compiling stays", unit="stay", disable=None if progress else True) as bar,
            ThreadPoolExecutor(jobs) as pool,
        ):
            for split, of_split in stays.items():
                with SplitWriter(folder / split) as writer:
                    for part, n_read in in_order(pool, read, _chunks(of_split), 2 * jobs):
                        self.skip(part.skips)
                        writer.append(part, self.codes(part), self.labels)
                        self.n_reordered += part.n_reordered
                        self.spans.add(part.spans, self.labels)
                        bar.update(n_read)
                self.splits[split], self.groups[split] = writer.counts, writer.groups


def _chunks(stays: Stays) -> Iterator[Stays]:
    """The stays, as many at a time as have about ROWS_PER_CHUNK rows."""
    number = np.cumsum(stays.n_rows) // ROWS_PER_CHUNK
    ends = np.flatnonzero(np.diff(number, append=-1)) + 1  # [chunks]
    return (stays[start:end] for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))


def in_order(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """work(item) for each item, in order, with at most `ahead` of them at a time: that bounds memory."""
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _refuse_faults(tally: _Tally, label_name: str) -> None:
    """Raises InputError listing all kinds of faults, if there are any."""
    faulty = tally.faulty
    if faulty.kinds:
        what = f"these {faulty.unit}s" if faulty.files else "these rows"
        left_out = faulty.share(tally.splits, label_name) if faulty.files else "those rows alone"
        raise InputError(
            f"{faulty.total}:"
            + "".join(f"\n  {line}" for line in faulty.lines())
            + f"\nCorrect or remove {what}, or pass --skip_bad to leave them out and list them in skipped.csv."
            f"\n--skip_bad would leave out {left_out}."
        )


def _require_stays(tally: _Tally) -> None:
    """Raises InputError if a split, or the whole, has no stay left."""
    empty = [split for split, n in tally.splits.items() if not n["stays"]]
    if empty or not tally.splits:
        first = f" The first that was left out: {tally.skips[0]}" if tally.skips else ""
        raise InputError(f"{f'The split {empty[0]}' if empty else 'The data'} has no usable stay.{first}")


# ------------------------------------------------------------------ second pass: codes of the vocabulary, sums


def _number_variables(tally: _Tally, folder: Path, progress: bool) -> list[str]:
    """The sorted vocabulary; variables are numbered by it in place, and the sums of each split are written."""
    vocabulary = sorted(tally.code_of)
    number = np.zeros(len(vocabulary), dtype=np.int32)  # provisional code -> vocabulary
    number[[tally.code_of[name] for name in vocabulary]] = np.arange(len(vocabulary))

    def numbered(split: str) -> Iterator[Block]:
        arrays = (
            np.load(folder / split / f"{name}.npy", mmap_mode="r+", allow_pickle=False)
            for name in ("variable", "value")
        )
        for variable, value in event_blocks(*arrays):
            variable[:] = number[variable]
            yield variable, value
            bar.update(len(value))

    total = sum(n["events"] for n in tally.splits.values())
    disable = None if progress else True
    with tqdm(total=total, desc="Adding up values", unit="event", unit_scale=True, disable=disable) as bar:
        for split in tally.splits:
            np.save(folder / split / SUMS, Sums.from_blocks(numbered(split), len(vocabulary)).as_array())
    return vocabulary


def _manifest(tally: _Tally, skip_bad: bool) -> dict[str, Any]:
    """The content of manifest.json: what was read and what was left out."""
    has_groups = any(group for runs in tally.groups.values() for group, _ in runs)
    return {
        **({"groups": tally.groups} if has_groups else {}),
        "splits": tally.splits,
        "report": {
            "skip_bad": skip_bad,
            "faulty_files": tally.faulty.files,
            "faults": asdict(tally.faulty),
            "unnamed_rows": tally.unnamed_rows._asdict(),
            "left_out": sum(not skip.is_fault for skip in tally.skips),
            "stays_out_of_order": tally.n_reordered,
            TIMES: tally.spans.as_plain(),
            "stays_without_label": sum(n["stays"] - n["labelled"] for n in tally.splits.values()),
        },
    }
