"""Cached features: stage 1 computes the pooled states of the frozen backbone once, because they never change.

They stay on disk for later runs, a folder per split, named by a hash of everything that the numbers depend on:

<root>/<key>/
    pooled.npy      row n: pooled history states of stay n of the split; zeros for stays that were not read
    manifest.json   what the features were computed from; its hash is the key

Labels are not cached: they are read from the cohort. Legend: n stays of a split, P pooled width.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

import seqsetvae
from seqsetvae.batches.batch import PooledBatch
from seqsetvae.batches.loading import CohortDataModule, SplitBatches
from seqsetvae.cohort import Split
from seqsetvae.models.beside import main_part
from seqsetvae.system.console import warn
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import AlreadyThereError, CannotWriteError, file_sha256, new_folder, scratch_folder
from seqsetvae.system.processes import any_process, barrier, gather_to_first, own_share, this_process
from seqsetvae.training.feature_pass import FeaturePass, FrozenModel, fill, pooled_batches
from seqsetvae.training.precision import Precision

FEATURE_CACHE = "features"  # below output_root_dir
POOLED, MANIFEST = "pooled.npy", "manifest.json"
IN_MEMORY = 2**28  # bytes; a larger array is memory-mapped
ABOUT = (
    "Cached features of a frozen backbone for the stays of one split: row n of pooled.npy is stay n. "
    "Safe to delete: the next run that needs them computes them again."
)


def dependencies(module: FrozenModel, data: CohortDataModule, split: str, precision: Precision) -> dict[str, Any]:
    """Everything that the features of a split depend on; where all of it is equal, so are they, to the last bit."""
    backbone = main_part(module.backbone)
    return {
        "backbone": {
            "weights": tensors_hash(backbone.state_dict()),
            "architecture": backbone.architecture,
            "sizes": backbone.sizes.as_dict(),  # no weight shows how many heads there are
        },
        "data": {
            "cohort": data.cohort.content_hash,
            "split": split,
            "embeddings": tensors_hash({"embeddings": module.embeddings}),
            "labelled stays only": data.labelled,
            "last sets of each stay": data.max_sets,
            "values": data.transform.as_plain(),
        },
        "pooling": module.pooling,
        # Other batches add in another order.
        "batches": {"batch_size": data.batch_size, "max_events": data.max_events, "padded": data.padded_classes},
        "precision": {"values": np.dtype(data.dtype).name, **precision.as_plain()},
        "code": {"sources": code_hash(), "torch": torch.__version__},
    }


def tensors_hash(tensors: dict[str, torch.Tensor]) -> str:
    """A hash of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def code_hash() -> str:
    """A hash of every source file that may compute features: after an edit they are computed again.

    All of the package counts, in any subfolder, and the fine-tuner, so that none can be forgotten here.
    """
    package = Path(seqsetvae.__file__).parent
    files = [package.parent / "model_optimized.py", *sorted(package.rglob("*.py"))]
    content = [(file.relative_to(package.parent).as_posix(), file_sha256(file)) for file in files]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class DamagedError(InputError):
    """Cached features that differ from what was written."""


@dataclass(frozen=True)
class FeatureFolder:
    """The folder for the cached features of one split."""

    root: Path
    made_from: dict[str, Any]
    n_stays: int
    width: int  # P
    dtype: np.dtype[Any]

    @classmethod
    def locate(
        cls, root: Path, module: FrozenModel, data: CohortDataModule, split: str, precision: Precision
    ) -> FeatureFolder:
        """The folder for the features of a split with this module's backbone."""
        return cls(
            root,
            dependencies(module, data, split, precision),
            data.cohort.split(split).n_stays,
            main_part(module.backbone).pooled_width(module.pooling),
            np.dtype(data.dtype),  # those that a GPU computes in 16 bits are stored in 32, as the head reads them
        )

    @cached_property
    def path(self) -> Path:
        """<root>/<key>."""
        return self.root / hashlib.sha256(json.dumps(self.made_from, sort_keys=True).encode()).hexdigest()[:32]

    def find(self) -> np.ndarray | None:
        """The features [n, P] if they are cached; a damaged cache is reported and deleted."""
        if not self.path.exists():
            return None
        try:
            return self.open()
        except DamagedError as error:
            warn(f"{error}")
            # Renamed first, so that no other process sees half of it; another process may have removed it already.
            with suppress(OSError, CannotWriteError), scratch_folder(self.root, self.path.name) as aside:
                self.path.rename(aside / self.path.name)
            return None

    def open(self) -> np.ndarray:
        """The features [n, P], memory-mapped where they are large. Raises DamagedError."""
        file = self.path / POOLED
        try:
            manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            if manifest["made_from"] != self.made_from or manifest["checksum"] != file_sha256(file):
                raise ValueError("the checksum does not match")
            rows = np.load(file, mmap_mode="r" if file.stat().st_size > IN_MEMORY else None, allow_pickle=False)
            if rows.shape != (self.n_stays, self.width) or rows.dtype != self.dtype:
                raise ValueError(f"{rows.dtype} {rows.shape}, expected {self.dtype} {(self.n_stays, self.width)}")
        except (OSError, ValueError, TypeError, KeyError, EOFError) as error:
            raise DamagedError(
                f"{self.path}: the cached features of the frozen backbone are damaged ({error}). The folder is safe to "
                "delete: the features are then computed again."
            ) from None
        return rows.view(np.ndarray)  # the subclass memmap makes every slice slower

    @contextmanager
    def new(self) -> Iterator[np.ndarray]:
        """Zeros [n, P] to be filled in, on disk under a temporary name until the block ends without an error.

        Raises:
            AlreadyThereError: another process has computed the same features in the meantime.
            CannotWriteError: the folder cannot be written, or the disk is full.
        """
        with new_folder(self.path) as partial:
            rows = self._reserve(partial / POOLED)
            yield rows
            rows.flush()
            content = {"about": ABOUT, "made_from": self.made_from, "checksum": file_sha256(partial / POOLED)}
            (partial / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def _reserve(self, file: Path) -> np.memmap[Any, Any]:
        """A new array with its disk space reserved: a full disk is an error here, not a crash at some later row."""
        try:
            rows = np.lib.format.open_memmap(file, mode="w+", dtype=self.dtype, shape=(self.n_stays, self.width))
            if hasattr(os, "posix_fallocate"):  # not on every system
                with file.open("r+b") as stream:
                    os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
        except OSError as error:
            size = self.n_stays * self.width * self.dtype.itemsize
            raise CannotWriteError(
                f"{self.root}: cannot store {size / 2**20:,.0f} MiB of features ({error.strerror}). Free disk space, "
                "or pass another --output_root_dir."
            ) from None
        return rows


class PooledRows(Dataset[PooledBatch]):
    """Cached features of a split; `rows[stays]` is the batch of the stays at these positions, as in SplitBatches."""

    def __init__(self, pooled: np.ndarray, split: Split, events: SplitBatches | None = None) -> None:
        """`events` makes `batch.prepared` for a part of the model that is not frozen, if there is one."""
        self.events = events
        self.pooled = pooled  # [n, P], in memory or memory-mapped; zeros for stays that no loader reads
        self.label = split.label.astype(np.int64)
        self.stay_id = np.array(split.stay_id)
        self.target: np.ndarray | None = getattr(split, "target", None)  # of another task than one binary label

    def __getitem__(self, stays: np.ndarray) -> PooledBatch:
        if stays[0] < 0:
            return self[~stays].without_labels()
        batch = PooledBatch(*(torch.from_numpy(column[stays]) for column in (self.pooled, self.label, self.stay_id)))
        if self.target is not None:
            batch.target = torch.from_numpy(self.target[stays])
        if self.events is not None:
            batch.prepared = self.events.prepared(stays)
        return batch

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class CachedFeatures:
    """Features of the training and the validation split, and the passes over the data that they needed in this run."""

    rows: dict[str, PooledRows]
    passes: tuple[FeaturePass, ...]  # none for a split whose features were cached


def cached_features(module: FrozenModel, data: CohortDataModule, precision: Precision, root: Path) -> CachedFeatures:
    """Features from the cache at `root`; those that are not in it are computed and added."""
    assert module.frozen, "features of a backbone that trains are stale after one step"
    module.to(precision.device)  # no Trainer has moved it yet
    if data.dtype is np.float64:
        module.double()
    rows, passes = {}, []
    for split in ("train", "valid"):
        pooled, computed = _find_or_compute(module, data, split, precision, root)
        events = None if main_part(module.backbone) is module.backbone else data.loader(split).dataset
        rows[split] = PooledRows(pooled, data.cohort.split(split), events)  # type: ignore[arg-type]
        passes += [] if computed is None else [computed]
    return CachedFeatures(rows, tuple(passes))


def _find_or_compute(
    module: FrozenModel, data: CohortDataModule, split: str, precision: Precision, root: Path
) -> tuple[np.ndarray, FeaturePass | None]:
    """Features of a split [n, P], and the pass over the data if there was one."""
    folder = FeatureFolder.locate(root, module, data, split, precision)
    cached = folder.find() if this_process().is_first else None
    if any_process(cached is not None)[0]:
        print(f"Cached features of the frozen backbone: {data.n_selected(split):,} {split} stays, from {folder.path}")
        return folder.open() if cached is None else cached, None
    computed = _compute(module, data, split, precision, folder)
    return folder.open(), computed


def _compute(
    module: FrozenModel, data: CohortDataModule, split: str, precision: Precision, folder: FeatureFolder
) -> FeaturePass | None:
    """Add the features of a split to the cache. Each process computes its share of the batches; the first writes.

    Returns:
        The pass over the data; None in the other processes, and where another run was faster.
    """
    computed, loader = None, data.loader(split, **own_share())
    parts = gather_to_first(pooled_batches(module, loader, split, precision), len(loader))
    try:
        if this_process().is_first:
            with folder.new() as rows:
                computed = fill(rows, parts, split, data.n_selected(split))
            print(
                f"Computed the features of the frozen backbone: {computed.stays:,} {split} stays, "
                f"{computed.stays / computed.seconds:,.0f} stays/s, cached in {folder.path}",
                flush=True,
            )
    except AlreadyThereError:
        print(f"Another run has computed the same features: {folder.path} is used", flush=True)
    for _ in parts:  # what is left: the other processes send theirs
        pass
    barrier()  # now the folder is there for all
    return computed
