"""The samples of a source as arrays: who, from when, until when, with which label, in which split.

Letters: D ids, N samples.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsetvae.cohort.tables.cells import id_numbers
from seqsetvae.cohort.tables.events import Events
from seqsetvae.cohort.tables.stay_table import LabelRows
from seqsetvae.cohort.tables.times import BAD_TIME, MICROSECONDS, is_bad
from seqsetvae.cohort.tidy import Stays


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

    def stays(self, n_rows: NDArray[np.int64] | None = None) -> Stays:
        """The samples as the compiler knows them: n_rows [D] of each id, if they are to be read."""
        return Stays(
            self.stay_id,
            lambda at: f"{self.source}, id {self.id_text[int(self.id[at])]}",
            subject=self.subject,
            prediction_minute=self.minute,
            n_rows=None if n_rows is None else n_rows[self.id],
        )


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
    numbers = events.ids.number
    timed = labels is not None and labels.time is not None
    if timed:
        assert labels is not None
        assert labels.time is not None
        order = np.lexsort((labels.time, labels.id))
        ids, time, label = labels.id[order], labels.time[order], labels.label[order]
        again = np.zeros(len(ids), dtype=bool)
        again[1:] = (ids[1:] == ids[:-1]) & (time[1:] == time[:-1])
        ids, time, label = ids[~again], time[~again], label[~again]
    else:
        ids = np.arange(len(numbers), dtype=np.int32)
        of_id = np.full(len(numbers), -1, dtype=np.int8)
        if labels is not None:
            of_id[labels.id] = labels.label
        label, time = of_id[ids], no_time(len(ids), start.dtype)
    subject_of_id = numbers if subject is None else _subjects(subject)
    once = len(np.unique(ids)) == len(ids)
    stay_id = numbers[ids] if once else np.arange(1, len(ids) + 1)
    return Samples(source, events.ids.texts, stay_id, subject_of_id[ids], ids, start[ids], time, label)


def no_time(n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """[n] Times that are missing."""
    return np.full(n, BAD_TIME if dtype == np.int64 else np.nan, dtype)


def minutes(time: NDArray[Any], start: NDArray[Any]) -> NDArray[np.float64]:
    """Minutes from start to time; both are timestamps in microseconds, or minutes."""
    return (time - start) / MICROSECONDS if time.dtype == np.int64 else time - start


def _subjects(column: pa.Array) -> NDArray[np.int64]:
    """[D] The number of each id's patient: itself, or its place among their texts. The caller refused empty cells."""
    encoded = column.dictionary_encode()
    texts = encoded.dictionary
    numbers = id_numbers(texts)
    if numbers is None:
        numbers = np.empty(len(texts), dtype=np.int64)
        numbers[pc.array_sort_indices(texts).to_numpy()] = np.arange(1, len(texts) + 1)
    return numbers[encoded.indices.to_numpy(zero_copy_only=False)]
