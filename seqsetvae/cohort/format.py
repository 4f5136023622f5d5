"""The compiled cohort on disk: memory-mapped flat arrays and one manifest. docs/cohort-format.md describes it.

Letters: V variables, I width of an embedding; in a split N stays, S sets, E events.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.manifest import MANIFEST, damaged, read_manifest
from seqsetvae.cohort.tidy import SPLITS
from seqsetvae.errors import InputError
from seqsetvae.files import file_sha256

EMBEDDINGS = "embeddings.npy"
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
    value: NDArray[np.float64]  # [E] z-score; the raw value where the cohort has no statistics for the variable
    set_offset: NDArray[np.int64]  # [S + 1] into the events
    minute: NDArray[np.float64]  # [S] minutes since admission
    stay_offset: NDArray[np.int64]  # [N + 1] into the sets
    stay_id: NDArray[np.int64]  # [N]
    label: NDArray[np.int8]  # [N] 0 or 1; -1 = the stay has no label
    subject_id: NDArray[np.int64]  # [N] the patient; the stay's own number where the source has no patients
    prediction_minute: NDArray[np.float64]  # [N] only events before it are in the cohort; NaN = the whole stay

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
        return len(self.value)

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


@dataclass(frozen=True)
class Cohort:
    """A compiled cohort, open for reading."""

    path: Path
    manifest: dict[str, Any]  # manifest.json
    vocabulary: tuple[str, ...]  # the V variables that occur, sorted by name
    mean: NDArray[np.float64]  # [V] in the variable's own unit; NaN = no statistics, the raw value was kept
    std: NDArray[np.float64]  # [V] likewise
    embeddings: NDArray[np.float64]  # [V, I]
    embeddings_generated: bool  # from the names, because there was no cached.csv
    label_name: str  # the column of oc.csv that the labels come from
    splits: dict[str, Split]  # only those that the source had, in the order train, valid, test

    def split(self, name: str) -> Split:
        """The split of this name. Raises InputError naming those there are."""
        if name not in self.splits:
            raise InputError(f"{self.path}: the cohort has no split {name!r}; it has {', '.join(self.splits)}.")
        return self.splits[name]

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over all arrays, the vocabulary and the statistics: equal hashes mean the same data."""
        parts = {key: self.manifest[key] for key in ("checksums", "vocabulary", "mean", "std", "label_name")}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def fingerprints(self) -> dict[str, str]:
        """What each variable means here: a short hash of its mean, std and embedding, by name.

        A checkpoint that keeps them can tell later whether a cohort means the same by the same name.
        """
        meaning = np.column_stack([self.mean, self.std, self.embeddings]).astype("<f8")  # [V, 2 + I]
        meaning[np.isnan(meaning)] = np.nan  # one NaN, whatever its bits were
        return {
            name: hashlib.sha256(row.tobytes()).hexdigest()[:16]
            for name, row in zip(self.vocabulary, meaning, strict=True)
        }


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenated index ranges [start, start + length) without a Python loop.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
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
    embeddings = _map(path / EMBEDDINGS, np.dtype("<f8"), n_dim=2)
    if embeddings.shape != (len(manifest["vocabulary"]), manifest["embeddings"]["width"]):
        raise damaged(path / EMBEDDINGS, f"shape {embeddings.shape} disagrees with the manifest")
    if verify:
        _check_bytes(path, manifest)
    for name, split in splits.items():
        _check_split(split, manifest["splits"][name], len(manifest["vocabulary"]))
    return Cohort(
        path=path,
        manifest=manifest,
        vocabulary=tuple(manifest["vocabulary"]),
        mean=_from_json(manifest["mean"]),
        std=_from_json(manifest["std"]),
        embeddings=embeddings,
        embeddings_generated=manifest["embeddings"]["source"] != "file",
        label_name=manifest["label_name"],
        splits=splits,
    )


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


def _check_bytes(path: Path, manifest: dict[str, Any]) -> None:
    arrays = (f"{split}/{array}.npy" for split in manifest["splits"] for array in (*ARRAYS, *OPTIONAL_ARRAYS))
    others = [EMBEDDINGS, *(name for name in (SAMPLES,) if name in manifest["checksums"])]
    for name in [*others, *(array for array in arrays if (path / array).is_file())]:
        if file_sha256(path / name) != manifest["checksums"].get(name):
            raise damaged(path / name, "its bytes are not those that were written")


def _check_split(split: Split, counts: dict[str, int], n_variables: int) -> None:
    n_stays, n_sets, n_events = counts["stays"], counts["sets"], counts["events"]
    sizes = {"variable": n_events, "value": n_events, "set_offset": n_sets + 1, "minute": n_sets}
    sizes |= {"stay_offset": n_stays + 1, "stay_id": n_stays, "label": n_stays}
    sizes |= dict.fromkeys(OPTIONAL_ARRAYS, n_stays)
    for array, size in sizes.items():
        if len(getattr(split, array)) != size:
            raise damaged(split.folder / f"{array}.npy", f"{len(getattr(split, array))} entries, not {size}")
    for array, end in (("set_offset", n_events), ("stay_offset", n_sets)):
        offset = getattr(split, array)
        if offset[0] != 0 or offset[-1] != end or not _rises(offset):
            raise damaged(split.folder / f"{array}.npy", f"offsets do not rise from 0 to {end}")
    if n_events and not 0 <= split.variable.min() <= split.variable.max() < n_variables:
        raise damaged(split.folder / "variable.npy", f"an index outside 0 to {n_variables - 1}")


def _rises(offset: NDArray[np.int64]) -> bool:
    """Is every entry above the one before it? Looked at in blocks: the array may be larger than memory."""
    starts = range(0, len(offset) - 1, _ENTRIES_PER_BLOCK)
    return all((np.diff(offset[start : start + _ENTRIES_PER_BLOCK + 1]) > 0).all() for start in starts)


def _from_json(numbers: list[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if number is None else number for number in numbers], dtype=np.float64)


def to_json(numbers: NDArray[np.float64]) -> list[float | None]:
    """Floats for the manifest, which read back to the same bits; NaN becomes null."""
    return [None if np.isnan(number) else float(number) for number in numbers]
