"""The compiled cohort on disk: memory-mapped flat arrays of raw values and one manifest; see docs/cohort-format.md.

What a model makes of the values belongs to the model (variables.py), and is bound to an open cohort.

Letters: V variables, I width of an embedding; in a split N stays, S sets, E events.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.manifest import MANIFEST, damaged, read_manifest
from seqsetvae.cohort.tidy import SPLITS
from seqsetvae.cohort.variables import N_SUMS, NONE, TRAIN_SPLIT, Floats, Sums, Variables
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import file_sha256

NO_STATISTICS = {"mean": None, "std": None}
SUMS = "sums.npy"  # in each split folder: float64 [7, V], the fields of Sums in their order
SAMPLES = "samples.parquet"  # ids and times of the samples, where a table was imported (imported.py)
ARRAYS: dict[str, np.dtype[Any]] = {  # every array of a split folder and its dtype
    "variable": np.dtype("<i4"),
    "value": np.dtype("<f8"),
    "set_offset": np.dtype("<i8"),
    "minute": np.dtype("<f8"),
    "stay_offset": np.dtype("<i8"),
    "stay_id": np.dtype("<i8"),
    "label": np.dtype("i1"),
}
OPTIONAL_ARRAYS: dict[str, np.dtype[Any]] = {  # in a split folder only if the source has several samples per subject
    "subject_id": np.dtype("<i8"),
    "prediction_minute": np.dtype("<f8"),
}
EVENTS_PER_BLOCK = 1 << 20
_ENTRIES_PER_BLOCK = 1 << 20


class Split:
    """One split of a cohort, memory-mapped and read-only.

    The events of set s are variable[set_offset[s]:set_offset[s + 1]]; the sets of stay n are
    minute[stay_offset[n]:stay_offset[n + 1]]. Pickling keeps the folder alone and opens the maps again.
    """

    variable: NDArray[np.int32]  # [E] index into the vocabulary
    value: NDArray[np.float64]  # [E] in the variable's own unit
    set_offset: NDArray[np.int64]  # [S + 1] into the events
    minute: NDArray[np.float64]  # [S] minutes since admission
    stay_offset: NDArray[np.int64]  # [N + 1] into the sets
    stay_id: NDArray[np.int64]  # [N]
    label: NDArray[np.int8]  # [N] 0 or 1; -1 = the stay has no label
    subject_id: NDArray[np.int64]  # [N] the patient; the stay's own number where the source has no patients
    prediction_minute: NDArray[np.float64]  # [N] only events before it are in the cohort; NaN = the whole stay
    sums: Sums | None = None  # of the values, by variable; None: not known (`Cohort.sums` computes them)

    def __init__(self, folder: Path) -> None:
        """Map the arrays of a split folder. Raises InputError naming an array that is missing or damaged."""
        self.folder = folder
        self.name = folder.name
        for array, dtype in ARRAYS.items():
            setattr(self, array, _map(folder / f"{array}.npy", dtype, n_dim=1))
        self.subject_id, self.prediction_minute = self.stay_id, np.broadcast_to(np.nan, self.n_stays)
        for array, dtype in OPTIONAL_ARRAYS.items():
            if (folder / f"{array}.npy").is_file():
                setattr(self, array, _map(folder / f"{array}.npy", dtype, n_dim=1))
        if (folder / SUMS).is_file():
            sums = _map(folder / SUMS, np.dtype("<f8"), n_dim=2)
            if len(sums) != N_SUMS:
                raise damaged(folder / SUMS, f"{len(sums)} rows, not {N_SUMS}")
            self.sums = Sums(*sums)

    def __reduce__(self) -> tuple[type["Split"], tuple[Path]]:
        return Split, (self.folder,)

    @property
    def n_stays(self) -> int:
        """Stays in this split (N)."""
        return len(self.stay_id)

    @property
    def n_sets(self) -> int:
        """Sets in this split (S)."""
        return len(self.minute)

    @property
    def n_events(self) -> int:
        """Events in this split (E)."""
        return len(self.variable)

    def subjects_of(self, stays: NDArray[np.int64]) -> NDArray[np.int64]:
        """The patient of each of these stays of the split."""
        order = np.argsort(self.stay_id)
        return self.subject_id[order[np.searchsorted(self.stay_id, stays, sorter=order)]]


def event_blocks(
    variable: NDArray[np.int32], value: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float64]]]:
    """Views of at most EVENTS_PER_BLOCK events, since the arrays may be larger than memory."""
    for start in range(0, len(value), EVENTS_PER_BLOCK):
        yield variable[start : start + EVENTS_PER_BLOCK], value[start : start + EVENTS_PER_BLOCK]


class StayEvents(NamedTuple):
    """The events of some stays of a split, in time order within each stay."""

    stay: NDArray[np.int64]  # [E] position in the block
    set: NDArray[np.int64]  # [E] position in the split
    minute: Floats  # [E]
    variable: NDArray[np.int32]  # [E]
    value: Floats  # [E]


def stay_blocks(split: Split, most_stays: int | None = None) -> Iterator[tuple[slice, StayEvents]]:
    """The stays of a split in blocks of at most `most_stays` stays and EVENTS_PER_BLOCK events, at least one stay."""
    event_start = split.set_offset[split.stay_offset]  # [N + 1]
    start, most_stays = 0, most_stays or split.n_stays
    while start < split.n_stays:
        by_events = int(np.searchsorted(event_start, event_start[start] + EVENTS_PER_BLOCK, side="right")) - 1
        end = min(max(by_events, start + 1), start + most_stays, split.n_stays)
        first, last = split.stay_offset[start], split.stay_offset[end]
        events = slice(event_start[start], event_start[end])
        stay = np.repeat(np.arange(end - start), np.diff(event_start[start : end + 1]))
        of_set = np.repeat(np.arange(first, last), np.diff(split.set_offset[first : last + 1]))
        columns = split.minute[of_set], split.variable[events], split.value[events]
        yield slice(start, end), StayEvents(stay, of_set, *columns)
        start = end


@dataclass(frozen=True)
class Cohort:
    """A compiled cohort, open for reading, and what a model reads of its variables."""

    path: Path
    manifest: dict[str, Any]  # manifest.json
    vocabulary: tuple[str, ...]  # the V variables that occur, sorted by name
    variables: Variables  # of the vocabulary; as opened, mean and std of the train split and generated vectors
    label_name: str  # the column of oc.csv that the labels come from
    splits: dict[str, Split]  # only those that the source had, in the order train, valid, test

    def split(self, name: str) -> Split:
        """The split of this name. Raises InputError naming those there are."""
        if name not in self.splits:
            raise InputError(f"{self.path}: the cohort has no split {name!r}; it has {', '.join(self.splits)}.")
        return self.splits[name]

    @property
    def mean(self) -> Floats:
        """[V] In the variable's own unit; NaN = no statistics."""
        return self.variables.mean

    @property
    def std(self) -> Floats:
        """[V] Likewise."""
        return self.variables.std

    @property
    def embeddings(self) -> Floats:
        """[V, I]."""
        return self.variables.vectors

    def sums(self, split: str) -> Sums:
        """Sums over the values of a split, by variable."""
        part = self.split(split)
        return part.sums or Sums.from_blocks(event_blocks(part.variable, part.value), len(self.vocabulary))

    def with_own_statistics(self) -> "Cohort":
        """The cohort with mean and std of the values of its train split, all NaN where it has none."""
        none = np.full(len(self.vocabulary), np.nan)
        has_train = "train" in self.splits
        mean, std = self.sums("train").mean_and_std() if has_train else (none, none)
        variables = replace(self.variables, mean=mean, std=std, statistics=TRAIN_SPLIT if has_train else NONE)
        return replace(self, variables=variables)

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 over all arrays and the vocabulary: equal hashes mean the same data, whatever reads them."""
        # null: keys of earlier versions, of which the hash stays what it was
        parts = {key: self.manifest[key] for key in ("checksums", "vocabulary", "label_name")} | NO_STATISTICS
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def content_hash(self) -> str:
        """One hash of the data and of what a model reads of their variables."""
        return hashlib.sha256(f"{self.data_hash} {self.variables.content_hash}".encode()).hexdigest()


def join_ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenated index ranges [start, start + length) without a Python loop.

    >>> join_ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def is_compiled(path: str | Path) -> bool:
    """Is this the folder of a compiled cohort (whole or damaged)?"""
    return (Path(path) / MANIFEST).is_file()


def open_cohort(path: str | Path, verify: bool = True) -> Cohort:
    """Open a compiled cohort after checking format, dtypes, sizes and offsets, and with `verify` every byte.

    Raises:
        InputError: naming the file that is missing, damaged, or of another version.
    """
    path = Path(path)
    manifest = read_manifest(path)
    for name in manifest["checksums"]:
        if not (path / name).is_file():
            raise damaged(path / name, "the file is missing")
    splits = {name: Split(path / name) for name in SPLITS if name in manifest["splits"]}
    if verify:
        files = (*(f"{array}.npy" for array in (*ARRAYS, *OPTIONAL_ARRAYS)), SUMS)
        there = [f"{split}/{file}" for split in splits for file in files if (path / split / file).is_file()]
        for name in [*there, *([SAMPLES] if SAMPLES in manifest["checksums"] else [])]:
            if file_sha256(path / name) != manifest["checksums"].get(name):
                raise damaged(path / name, "its bytes are not those that were written")
    for name, split in splits.items():
        _check_split(split, manifest["splits"][name], len(manifest["vocabulary"]))
    vocabulary = tuple(manifest["vocabulary"])
    unknown = np.full(len(vocabulary), np.nan)
    cohort = Cohort(path, manifest, vocabulary, Variables(vocabulary, unknown, unknown), manifest["label_name"], splits)
    return cohort.with_own_statistics()


def _map(file: Path, dtype: np.dtype[Any], n_dim: int) -> NDArray[Any]:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise damaged(file, "the file is missing") from None
    except Exception as error:  # of any kind: numpy takes what is in a damaged header as it is
        raise damaged(file, " ".join(str(error).split())[:200]) from None
    if array.dtype != dtype or array.ndim != n_dim:
        raise damaged(file, f"{array.dtype} with {array.ndim} dimensions, expected {dtype} with {n_dim}")
    return array.view(np.ndarray)  # the subclass memmap makes every slice slower


def _check_split(split: Split, counts: dict[str, int], n_variables: int) -> None:
    n_stays, n_sets, n_events = counts["stays"], counts["sets"], counts["events"]
    sizes = {"variable": n_events, "value": n_events, "set_offset": n_sets + 1, "minute": n_sets}
    sizes |= {"stay_offset": n_stays + 1, "stay_id": n_stays, "label": n_stays}
    sizes |= dict.fromkeys(OPTIONAL_ARRAYS, n_stays)
    if split.sums is not None and len(split.sums.count) != n_variables:
        raise damaged(split.folder / SUMS, f"{len(split.sums.count)} variables, not {n_variables}")
    for array, size in sizes.items():
        if len(getattr(split, array)) != size:
            raise damaged(split.folder / f"{array}.npy", f"{len(getattr(split, array))} entries, not {size}")
    for array, end in (("set_offset", n_events), ("stay_offset", n_sets)):
        offset = getattr(split, array)
        starts = range(0, len(offset) - 1, _ENTRIES_PER_BLOCK)  # the array may be larger than memory
        rises = all((np.diff(offset[start : start + _ENTRIES_PER_BLOCK + 1]) > 0).all() for start in starts)
        if offset[0] != 0 or offset[-1] != end or not rises:
            raise damaged(split.folder / f"{array}.npy", f"offsets do not rise from 0 to {end}")
    if n_events and not 0 <= split.variable.min() <= split.variable.max() < n_variables:
        raise damaged(split.folder / "variable.npy", f"an index outside 0 to {n_variables - 1}")
