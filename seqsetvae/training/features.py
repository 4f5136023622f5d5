"""Cached features of a frozen backbone on disk: a folder per split, named by a hash of all that the numbers depend on.

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
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import model_optimized
import seqsetvae
from model_optimized import SeqSetVAEFineTuner
from seqsetvae.errors import InputError
from seqsetvae.files import CannotWriteError, file_sha256, new_folder, scratch_folder
from seqsetvae.loading import CohortDataModule

POOLED, MANIFEST = "pooled.npy", "manifest.json"
IN_MEMORY = 2**28  # bytes; a larger array is memory-mapped
ABOUT = (
    "Cached features of a frozen backbone for the stays of one split: row n of pooled.npy is stay n. "
    "Safe to delete: the next run that needs them computes them again."
)


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """How a backbone computes, as far as the last bits of its outputs depend on it."""

    device: torch.device
    autocast: torch.dtype | None = None  # type of the matrix products in mixed precision; None: that of the weights
    compiled: bool = False  # its dense parts, by torch.compile

    def context(self) -> AbstractContextManager[Any]:
        """Autocast in mixed precision, else a context without effect."""
        return torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None)

    def as_plain(self) -> dict[str, str | bool | None]:
        """For the manifest; with threads and processor, because the order of sums changes the last bits."""
        cpu = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
        return {
            "device": self.device.type,
            "processor": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else cpu,
            "autocast": None if self.autocast is None else str(self.autocast),
            "float32 products": torch.get_float32_matmul_precision(),
            "compiled": self.compiled,
            "deterministic kernels": torch.are_deterministic_algorithms_enabled(),
        }


def ingredients(
    module: SeqSetVAEFineTuner, data: CohortDataModule, split: str, arithmetic: Arithmetic
) -> dict[str, Any]:
    """Everything that the features of a split depend on; equal ingredients mean equal bits."""
    return {
        "backbone": {
            "weights": tensors_hash(module.backbone.state_dict()),
            "sizes": module.backbone.sizes.as_dict(),  # no weight shows how many heads there are
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
        "batches": {
            "batch_size": data.batch_size,
            "max_events": data.max_events,
            "padded": data.padded_classes,
        },  # sums in another order
        "arithmetic": {"values": np.dtype(data.dtype).name, **arithmetic.as_plain()},
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

    All of the package counts, in any subfolder, so that no file that computes features can be forgotten here.
    """
    package = Path(seqsetvae.__file__).parent
    files = [Path(model_optimized.__file__), *sorted(package.rglob("*.py"))]
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
    def of(
        cls, root: Path, module: SeqSetVAEFineTuner, data: CohortDataModule, split: str, arithmetic: Arithmetic
    ) -> FeatureFolder:
        """The folder for the features of a split with this module's backbone."""
        # Features that a GPU computes in 16 bits are stored in 32, as the head reads them.
        dtype = torch.promote_types(module.embeddings.dtype, torch.float32)
        return cls(
            root,
            ingredients(module, data, split, arithmetic),
            data.cohort.split(split).n_stays,
            module.backbone.pooled_width(module.pooling),
            torch.empty(0, dtype=dtype).numpy().dtype,
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
            print(f"⚠️  {error}")
            _remove(self.path)
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


def _remove(folder: Path) -> None:
    """Delete a folder; it is renamed first, so that no other process sees half of it."""
    with (
        suppress(OSError, CannotWriteError),  # another process may have removed it already
        scratch_folder(folder.parent, folder.name) as aside,
    ):
        folder.rename(aside / folder.name)
