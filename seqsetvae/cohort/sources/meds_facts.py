"""Facts of MEDS: events without a time, which count as known from the start. One that lost its time would be a leak.

Letters: R rows of a part.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsetvae.cohort.report import most_events
from seqsetvae.cohort.sources.meds_files import BIRTH, CODE
from seqsetvae.cohort.tables.cells import as_text
from seqsetvae.cohort.tables.events import Events
from seqsetvae.cohort.tables.read import Part
from seqsetvae.cohort.tables.times import BAD_TIME
from seqsetvae.errors import InputError, shown

_WHY = "An event without a time counts as a fact that is known from the start, before every prediction time."


class Facts:
    """The codes of rows without a time, gathered while the events are read."""

    def __init__(self, src: Path, value: str | None) -> None:
        """`value` is the column of numbers."""
        self._src, self._value = src, value
        self._timed = {BIRTH}  # codes of rows with a time; a birth must have one
        self._codes: dict[str, int] = {}  # of rows without a time, in order of appearance
        self._first: list[tuple[Path, int]] = []  # file and row of the first of each
        self._numbers: Counter[str] = Counter()  # rows with a number, of those without a time
        self._pairs: list[NDArray[np.int64]] = []  # subject and code of each row without a time

    def add(self, part: Part, ids: NDArray[np.int32], code: NDArray[np.int32], time: NDArray[Any]) -> None:
        """Note the rows of a part; all arrays are [R]."""
        untimed = time == BAD_TIME if time.dtype == np.int64 else np.isnan(time)
        cells, rows = part.columns[CODE], np.flatnonzero(untimed & (ids >= 0) & (code >= 0))
        timed = cells.filter(pa.array(~untimed)) if untimed.any() else cells
        self._timed.update(as_text(pc.unique(timed)).to_pylist())
        encoded = as_text(cells.take(pa.array(rows))).dictionary_encode()
        names, local = encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
        number = np.array([self._codes.setdefault(name, len(self._codes)) for name in names], dtype=np.int64)
        first = dict(zip(*np.unique(local, return_index=True), strict=True))
        self._first += [
            (part.file, part.first_row + int(rows[first[at]]))
            for at in np.flatnonzero(number >= len(self._first)).tolist()
        ]
        self._pairs.append(ids[rows].astype(np.int64) << 32 | number[local])
        if self._value in part.columns:
            n_numbers = np.bincount(local[np.asarray(part.columns[self._value].is_valid())[rows]], minlength=len(names))
            self._numbers.update({name: n for name, n in zip(names, n_numbers.tolist(), strict=True) if n})

    def check(self, events: Events) -> None:
        """Raises InputError if there are no times, or if rows without one may have lost it."""
        if self._codes and not self._timed - {BIRTH}:
            raise InputError(f"{self._src / 'data'}: no event has a time. {_WHY}")
        if not events.time.is_timestamp:
            raise InputError(f"{self._src / 'data'}: the column time holds {events.time.described}, not timestamps.")
        self._refuse(
            "some rows of this code have a time, and others have none", sorted(self._codes.keys() & self._timed)
        )
        pairs, n = np.unique(np.concatenate(self._pairs), return_counts=True)
        names = list(self._codes)
        again = sorted({names[code] for code in (pairs[n > 1] & 0xFFFFFFFF).tolist()})
        self._refuse("one subject has this code several times, without a time", again)

    def _refuse(self, what: str, codes: list[str]) -> None:
        if codes:
            file, row = self._first[self._codes[codes[0]]]
            more = f" So it is with {len(codes) - 1:,} more codes: {', '.join(map(shown, codes[1:6]))}." * (
                len(codes) > 1
            )
            raise InputError(
                f"{file}, row {row} (counted from 0), code {shown(codes[0])}: {what}. {_WHY}{more} Write the times, or "
                f"leave these codes out: --leave_out {shown(codes[0])}"
            )

    def notes(self) -> list[str]:
        """The codes with numbers that are facts, in words: of a measurement, the times would be missing."""
        if not self._numbers:
            return []
        return [f"numbers without a time count as known from the start of each sample: {most_events(self._numbers)}"]
