"""Writes the arrays of a split, piece by piece, in bounded memory."""

import io
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.cut import CutRows
from seqsetvae.cohort.format import ARRAYS, OPTIONAL_ARRAYS
from seqsetvae.cohort.sidefiles import LabelTable

_HEADER_BYTES = 128  # of the .npy of any one-dimensional array


class _ArrayWriter:
    """Writes a one-dimensional .npy of unknown length."""

    def __init__(self, file: Path, dtype: np.dtype[Any]) -> None:
        self.dtype, self.length = dtype, 0
        self._stream = file.open("wb")
        self._write_header()

    def append(self, piece: NDArray[Any]) -> None:
        """Add a one-dimensional piece at the end."""
        self._stream.write(np.ascontiguousarray(piece, dtype=self.dtype).data)
        self.length += len(piece)

    def _write_header(self) -> None:
        header = io.BytesIO()
        described = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(header, described)
        assert len(header.getvalue()) == _HEADER_BYTES  # numpy pads it so that a shape can grow in place
        self._stream.write(header.getvalue())

    def __enter__(self) -> "_ArrayWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.seek(0)
        self._write_header()
        self._stream.close()


class SplitWriter:
    """Appends chunks to the arrays of one split folder; variables have provisional codes.

    Attributes:
        counts: of stays, sets, events, labelled stays and positives so far.
        groups: (group of the source, stays in a row).
    """

    def __init__(self, folder: Path) -> None:
        """Make the folder."""
        folder.mkdir()
        self._folder, self._stack = folder, ExitStack()
        self._arrays = {
            name: self._stack.enter_context(_ArrayWriter(folder / f"{name}.npy", dtype))
            for name, dtype in {**ARRAYS, **OPTIONAL_ARRAYS}.items()
        }
        self._arrays["set_offset"].append(np.zeros(1))
        self._arrays["stay_offset"].append(np.zeros(1))
        self._needed: set[str] = set()  # optional arrays that say more than the default
        self.counts = dict.fromkeys(("stays", "sets", "events", "labelled", "positives"), 0)
        self.groups: list[tuple[str, int]] = []

    def append(self, part: CutRows, codes: NDArray[np.int32], labels: LabelTable) -> None:
        """Add the stays of a chunk: codes [E] of its events, labels by stay number."""
        stays, label = part.stays, labels.of(part.stays.stay_id)
        pieces: dict[str, NDArray[Any]] = {
            "variable": codes,
            "value": part.value,
            "set_offset": self.counts["events"] + np.cumsum(part.n_events),
            "minute": part.minute,
            "stay_offset": self.counts["sets"] + np.cumsum(part.n_sets),
            "stay_id": stays.stay_id,
            "label": label,
            "subject_id": stays.subject,
            "prediction_minute": stays.prediction_minute,
        }
        for name, piece in pieces.items():
            self._arrays[name].append(piece)
        has_time = ~np.isnan(stays.prediction_minute)
        needed = {"subject_id": (stays.subject != stays.stay_id).any(), "prediction_minute": has_time.any()}
        self._needed |= {name for name, is_needed in needed.items() if is_needed}
        starts = np.flatnonzero(np.append(True, stays.group[1:] != stays.group[:-1])[: len(stays)])
        for group, n in zip(stays.group[starts].tolist(), np.diff([*starts, len(stays)]).tolist(), strict=True):
            before = self.groups.pop()[1] if self.groups and self.groups[-1][0] == group else 0
            self.groups.append((group, before + n))
        added = (len(label), len(part.minute), len(codes), int((label >= 0).sum()), int((label == 1).sum()))
        self.counts = {name: n + more for (name, n), more in zip(self.counts.items(), added, strict=True)}

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        for name in OPTIONAL_ARRAYS.keys() - self._needed:
            (self._folder / f"{name}.npy").unlink()
