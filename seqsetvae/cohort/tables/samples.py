"""The samples of a source as arrays: who, from when, until when, with which label, in which split.

Letters: D ids, N samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.cohort.tables.cells import id_numbers
from seqsetvae.cohort.tables.events import Events
from seqsetvae.cohort.tables.stay_table import LabelRows
from seqsetvae.cohort.tables.times import BAD_TIME, MICROSECONDS, is_bad
from seqsetvae.cohort.tidy import Stay


@dataclass(frozen=True)
class Samples:
    """N samples in the order of their numbers."""

    source: str  # for messages
    id_text: pa.Array  # [D] the ids as the source writes them
    stay_id: NDArray[np.int64]  # [N] ascending
    subject: NDArray[np.int64]  # [N]
    id: NDArray[np.int32]  # [N] position among the ids
    start: NDArray[Any]  # [N] minute 0, on the clock of the events
    end: NDArray[Any]  # [N] prediction time on that clock; BAD_TIME or NaN = none
    label: NDArray[np.int8]  # [N] 0, 1 or -1

    def __len__(self) -> int:
        return len(self.stay_id)

    def take(self, chosen: NDArray[Any]) -> "Samples":
        """These samples: positions that ascend, or a mask."""
        per_sample = ("stay_id", "subject", "id", "start", "end", "label")
        return replace(self, **{name: getattr(self, name)[chosen] for name in per_sample})

    @property
    def minute(self) -> NDArray[np.float64]:
        """[N] Prediction time in minutes after the start; NaN = none."""
        return np.where(is_bad(self.end), np.nan, minutes(self.end, self.start))

    def stay(self, at: int) -> Stay:
        """One sample as the compiler knows it."""
        minute = float(minutes(self.end[at : at + 1], self.start[at : at + 1])[0])
        where = f"{self.source}, id {self.id_text[int(self.id[at])].as_py()}"
        end = None if is_bad(self.end[at : at + 1])[0] else minute
        return Stay(int(self.stay_id[at]), where, "", int(self.subject[at]), end)


class SampleList(Sequence[Stay]):
    """The samples of a split; a Stay is made when it is asked for."""

    def __init__(self, samples: Samples, chosen: NDArray[np.int64]) -> None:
        """`chosen` are positions among the samples."""
        self._samples, self._chosen = samples, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[Stay]:
        return map(self._samples.stay, self._chosen.tolist())

    @overload
    def __getitem__(self, at: int) -> Stay: ...
    @overload
    def __getitem__(self, at: slice) -> "SampleList": ...
    def __getitem__(self, at: int | slice) -> "Stay | SampleList":
        if isinstance(at, slice):
            return SampleList(self._samples, self._chosen[at])
        return self._samples.stay(int(self._chosen[at]))


def make_samples(
    source: str, events: Events, start: NDArray[Any], subject: pa.Array | None, labels: LabelRows | None
) -> Samples:
    """One sample for each id, or for each (id, prediction time) of the labels, without the numbers of the samples.

    Args:
        source: for messages.
        events: their ids.
        start: [D] minute 0 of each id.
        subject: [D] the patient of each id; None: every id is a patient.
        labels: None: no sample has a label.
    """
    texts = list(events.ids.position)
    rank, numbers = _ranks(texts)
    timed = labels is not None and labels.time is not None
    if timed:
        assert labels is not None
        assert labels.time is not None
        order = np.lexsort((labels.time, rank[labels.id]))
        ids, time, label = labels.id[order], labels.time[order], labels.label[order]
        again = np.zeros(len(ids), dtype=bool)
        again[1:] = (ids[1:] == ids[:-1]) & (time[1:] == time[:-1])
        ids, time, label = ids[~again], time[~again], label[~again]
    else:
        ids = np.argsort(rank).astype(np.int32)
        of_id = np.full(len(texts), -1, dtype=np.int8)
        if labels is not None:
            of_id[labels.id] = labels.label
        label, time = of_id[ids], no_time(len(ids), start.dtype)
    subject_of_id = numbers if subject is None else _subjects(subject)
    once = len(np.unique(ids)) == len(ids)
    stay_id = numbers[ids] if once else np.arange(1, len(ids) + 1)
    return Samples(source, pa.array(texts), stay_id, subject_of_id[ids], ids, start[ids], time, label)


def no_time(n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """[n] Times that are missing."""
    return np.full(n, BAD_TIME if dtype == np.int64 else np.nan, dtype)


def minutes(time: NDArray[Any], start: NDArray[Any]) -> NDArray[np.float64]:
    """Minutes from start to time; both are timestamps in microseconds, or minutes."""
    return (time - start) / MICROSECONDS if time.dtype == np.int64 else time - start


def _ranks(texts: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(place of each id in their order [D]; the number of each id [D]: itself, or its place in the order of texts)."""
    numbers = id_numbers(texts)
    order = np.argsort(np.array(texts, dtype=object) if numbers is None else numbers, kind="stable")
    rank = np.empty(len(texts), dtype=np.int64)
    rank[order] = np.arange(len(texts))
    return rank, rank + 1 if numbers is None else numbers


def _subjects(column: pa.Array) -> NDArray[np.int64]:
    """[D] The number of each id's patient; -1 where the column is empty, which the caller has refused."""
    encoded = column.dictionary_encode()
    _, numbers = _ranks(encoded.dictionary.to_pylist())
    return numbers[encoded.indices.to_numpy(zero_copy_only=False)]
