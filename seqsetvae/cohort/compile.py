"""Tidy rows -> compiled cohort: ordered, cut into sets, normalised, checked and reported.

Two passes. The first reads the source in chunks, in parallel, and appends raw values to the arrays on disk in the order
of the stays, so memory stays bounded and the result does not depend on the number of threads. Then the vocabulary, the
statistics and the embeddings are known, and the second turns raw values into z-scores in place.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from seqsetvae.cohort.cut import CutRows, cut
from seqsetvae.cohort.format import EMBEDDINGS, Cohort, open_cohort, to_json
from seqsetvae.cohort.imported import TIMESTAMPS, Imported, write_samples
from seqsetvae.cohort.known import only_known
from seqsetvae.cohort.leaks import LEAKS
from seqsetvae.cohort.manifest import write_manifest
from seqsetvae.cohort.normalise import Variables, normalise
from seqsetvae.cohort.separate import require_separate_splits
from seqsetvae.cohort.sidefiles import (
    DEFAULT_WIDTH,
    Embeddings,
    Labels,
    Stats,
    choose_embeddings,
    generate_embedding,
)
from seqsetvae.cohort.skipped import FaultyFiles, write_skipped
from seqsetvae.cohort.spans import TIMES, Spans, refuse_other_clocks
from seqsetvae.cohort.tables.times import MINUTES
from seqsetvae.cohort.tidy import Skip, Source, Stay, UnnamedRows
from seqsetvae.cohort.writer import SplitWriter
from seqsetvae.errors import InputError
from seqsetvae.files import new_folder

COMPILER_VERSION = 2  # raise it when the same input compiles to different arrays: old cache entries are then not found
STAYS_PER_CHUNK = 256

T = TypeVar("T")
R = TypeVar("R")


def compile_cohort(
    source: Source,
    out: str | Path,
    *,
    label_name: str,
    labels: Labels | None = None,
    stats: Stats | None = None,
    embeddings: Embeddings | None = None,
    embedding_dim: int = DEFAULT_WIDTH,
    imported: Imported | None = None,
    skip_bad: bool = False,
    leave_out_unknown: bool = False,
    jobs: int | None = None,
    progress: bool = True,
) -> Cohort:
    """Compile a source into the new folder `out` and open it. docs/data-faults.md lists how faults are handled.

    Args:
        source: where the rows come from.
        out: a folder that does not exist yet; a failure leaves nothing there.
        label_name: what the labels mean, for the manifest.
        labels: 0 or 1 by stay number; without them, and for the stays they lack, the label is -1.
        stats: mean and std by variable; computed from the train split without them.
        embeddings: a vector for every variable that occurs; generated from the names without them.
        embedding_dim: width of embeddings generated from the names.
        imported: what an import adds to the cohort.
        skip_bad: leave faulty files out and list them in out/skipped.csv, instead of ending in one error about all.
        leave_out_unknown: leave out events of variables that `embeddings` lacks and count them, instead of an error.
        jobs: threads that read and cut; None = one per core. They do not change the result.
        progress: show a progress bar if stderr is a terminal.

    Raises:
        InputError: the data or side tables have a fault; the message says what and where.
    """
    out = Path(out)
    if not label_name.strip():
        raise InputError(f"The name of the label is {label_name!r}: it must not be blank (--label_name).")
    require_separate_splits(source)
    if stats is None and "train" not in source.stays and source.stays:
        raise InputError("There is no train split to compute statistics from. Pass a stats.csv (--params_map_path).")
    with new_folder(out) as partial:
        unit = "file" if imported is None else "stay"
        known = embeddings.row if leave_out_unknown and embeddings is not None else None
        tally = _Tally(source.unnamed_rows, FaultyFiles(unit=unit))
        _write_raw(tally, source, partial, labels or {}, jobs or os.cpu_count() or 1, progress, known)
        if not skip_bad:
            _refuse_faults(tally, label_name)
        _refuse_other_clocks(tally, imported)
        _require_stays(tally)
        n_events = {split: n["events"] for split, n in tally.splits.items()}
        variables = normalise(partial, tally.code_of, n_events, stats, progress)
        vectors = _embeddings(variables, embeddings, embedding_dim)
        np.save(partial / EMBEDDINGS, vectors)
        write_skipped(partial, tally.skips)
        if imported is not None and imported.samples is not None:
            write_samples(partial, imported.samples, tally.skips)
        origins = {
            "statistics": "train split" if stats is None else "file",
            "embeddings": {"source": "generated by name" if embeddings is None else "file", "width": vectors.shape[1]},
        }
        head = {"created": _created(), "source": source.description, "label_name": label_name, **origins}
        more = {} if imported is None else imported.as_plain()
        write_manifest(partial, head | more | _manifest(tally, variables, skip_bad))
        open_cohort(partial, verify=False)  # what could not be read again must not take the name OUT
    return open_cohort(out, verify=False)


@dataclass
class _Tally:
    """What the first pass learned."""

    unnamed_rows: UnnamedRows
    faulty: FaultyFiles
    code_of: dict[str, int] = field(default_factory=dict)  # name -> provisional code, in order of first appearance
    splits: dict[str, dict[str, int]] = field(default_factory=dict)  # counts by split
    groups: dict[str, list[tuple[str, int]]] = field(default_factory=dict)  # by split: (group, stays in a row)
    skips: list[Skip] = field(default_factory=list)
    unknown: dict[str, Counter[str]] = field(default_factory=dict)  # by split: events left out, by variable
    n_reordered: int = 0
    spans: Spans = field(default_factory=Spans)

    def skip(self, skips: Sequence[Skip], labels: Labels) -> None:
        """Note what is left out."""
        self.skips.extend(skips)
        for skip in skips:
            if skip.is_fault:
                self.faulty.add(skip, labels)

    def codes(self, part: CutRows) -> NDArray[np.int32]:
        """[E] The provisional code of each event; new names get one."""
        present = np.unique(part.variable)  # a name may be left with none of its rows, when faulty stays go
        code = np.zeros(len(part.names), dtype=np.int32)
        for local in present:
            code[local] = self.code_of.setdefault(part.names[local], len(self.code_of))
        return code[part.variable]


# ------------------------------------------------------------------ first pass: raw values, in order


def _write_raw(
    tally: _Tally,
    source: Source,
    folder: Path,
    labels: Labels,
    jobs: int,
    progress: bool,
    known: Collection[str] | None,
) -> None:
    """Write raw values and provisional codes, and note in `tally` what was learned."""

    def read(some: Sequence[Stay]) -> tuple[CutRows, int, dict[str, int]]:
        rows, unknown = source.read(some), dict[str, int]()
        if known is not None:
            rows, unknown = only_known(rows, known)
        return cut(rows), len(some), unknown

    tally.skip(source.skips, labels)
    n_stays = sum(map(len, source.stays.values()))
    with (
        tqdm(total=n_stays, desc="Compiling stays", unit="stay", disable=None if progress else True) as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        for split, stays in source.stays.items():
            chunks = (stays[start : start + STAYS_PER_CHUNK] for start in range(0, len(stays), STAYS_PER_CHUNK))
            tally.unknown[split] = Counter()
            with SplitWriter(folder / split) as writer:
                for part, n_read, unknown in in_order(pool, read, chunks, 2 * jobs):
                    tally.skip(part.skips, labels)
                    writer.append(part, tally.codes(part), labels)
                    tally.n_reordered += part.n_reordered
                    tally.spans.add(part.spans, labels)
                    tally.unknown[split].update(unknown)
                    bar.update(n_read)
            tally.splits[split] = writer.counts
            tally.groups[split] = writer.groups


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


def _refuse_other_clocks(tally: _Tally, imported: Imported | None) -> None:
    """Raises InputError if times that are numbers do not count from the start of the stays."""
    unit = "minutes" if imported is None else imported.record.get("times", "minutes")
    first = np.concatenate([np.zeros(0), *tally.spans.first])
    if unit != TIMESTAMPS and len(first):
        refuse_other_clocks(first, MINUTES[unit], unit)


# ------------------------------------------------------------------ embeddings and manifest


def _embeddings(variables: Variables, given: Embeddings | None, width: int) -> NDArray[np.float64]:
    """[V, I] in the order of the vocabulary."""
    if given is None:
        return np.stack([generate_embedding(name, width) for name in variables.vocabulary])
    return choose_embeddings(given, variables.vocabulary, variables.n_events)


def _manifest(tally: _Tally, variables: Variables, skip_bad: bool) -> dict[str, Any]:
    """What was read and what was left out."""
    has_groups = any(group for runs in tally.groups.values() for group, _ in runs)
    unknown = np.flatnonzero(np.isnan(variables.mean)).tolist()
    return {
        **({"groups": tally.groups} if has_groups else {}),
        "vocabulary": variables.vocabulary,
        "mean": to_json(variables.mean),
        "std": to_json(variables.std),
        "splits": tally.splits,
        "report": {
            "skip_bad": skip_bad,
            **({LEAKS: variables.statistics_of} if variables.statistics_of else {}),
            "faulty_files": tally.faulty.files,
            "faults": asdict(tally.faulty),
            "unnamed_rows": tally.unnamed_rows._asdict(),
            "unknown_variables": {
                split: dict(sorted(counts.items())) for split, counts in tally.unknown.items() if counts
            },
            "left_out": sum(not skip.is_fault for skip in tally.skips),
            "stays_out_of_order": tally.n_reordered,
            TIMES: tally.spans.as_plain(),
            "stays_without_label": sum(n["stays"] - n["labelled"] for n in tally.splits.values()),
            "variables_without_statistics": {variables.vocabulary[v]: int(variables.n_events[v]) for v in unknown},
        },
    }


def _created() -> dict[str, str | int]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "compiler": COMPILER_VERSION,
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
    }
