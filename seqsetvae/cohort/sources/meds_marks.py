"""What the codes of a MEDS data set say of its subjects: births, the starts and ends of stays, and label events.

Letters: D subjects, S stays, M times of subjects.
"""

from argparse import Namespace
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.cohort.sources.meds_files import AGE, BIRTH, CODE
from seqsetvae.cohort.sources.stay_end import StayEnd
from seqsetvae.cohort.sources.table_labels import of_samples
from seqsetvae.cohort.tables.codes import UNNAMED, EventCodes
from seqsetvae.cohort.tables.events import Events
from seqsetvae.cohort.tables.label_rules import Occurrences, event_labels, last_times, prediction_grid, present_labels
from seqsetvae.cohort.tables.read import Part
from seqsetvae.cohort.tables.samples import Samples
from seqsetvae.cohort.tables.source import StaticColumn
from seqsetvae.cohort.tables.stay_table import LabelRows
from seqsetvae.cohort.tables.times import BAD_TIME, MICROSECONDS, is_bad
from seqsetvae.cohort.tidy import Skip, left_out
from seqsetvae.errors import InputError

START, END, EVENT, PRESENT = "start_code", "end_code", "label_event", "label_present"  # flags of codes
_YEAR = 365.25 * 24 * 60 * MICROSECONDS
_LATEST = np.iinfo(np.int64).max


class Marks:
    """When births and the codes of the flags occurred, gathered while the events are read."""

    def __init__(self, codes: EventCodes, arguments: Namespace) -> None:
        """A flag that is not given has no marks."""
        self._codes, self._arguments = codes, arguments
        self._patterns = {flag: getattr(arguments, flag) for flag in (START, END, EVENT, PRESENT)}
        self._rows: dict[str, list[tuple[NDArray[Any], ...]]] = {name: [] for name in (*self._patterns, BIRTH)}

    def __call__(
        self, part: Part, ids: NDArray[np.int32], code: NDArray[np.int32], time: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """[R] Which rows are events: all but births."""
        timed = (ids >= 0) & ~is_bad(time)
        none = np.zeros(len(ids), dtype=bool)
        chosen = {
            flag: none if pattern is None else self._codes.rows_matching(part.columns[CODE], pattern)
            for flag, pattern in self._patterns.items()
        }
        is_birth = np.isin(code, self._codes.matching(BIRTH))
        for name, rows in (*chosen.items(), (BIRTH, is_birth)):
            self._rows[name].append(tuple(column[rows & timed] for column in (ids, time, chosen[START])))
        return ~is_birth

    def _of(self, name: str) -> Occurrences:
        """The marks of a flag, or the births."""
        ids, time, opens = map(np.concatenate, zip(*self._rows[name], strict=True))
        order = np.lexsort((time, ids))
        return Occurrences(ids[order], time[order], opens[order])

    def _label_marks(self, flag: str) -> Occurrences:
        found = self._of(flag)
        if not len(found.id):
            raise InputError(f"--{flag} {self._patterns[flag]}: no event with a time has this code.")
        return found

    def labels(self, rows: LabelRows | None, events: Events) -> LabelRows | None:
        """Labels and prediction times by the rules of the flags; `rows` are those of --labels.

        Raises:
            InputError: no event has the code of the label.
        """
        flags = self._arguments
        if flags.predict_at or flags.predict_every:
            ids, start, end = self._stays(events)
            grid = prediction_grid(start, end, sorted(set(flags.predict_at)), flags.predict_every)
            rows = replace(grid, id=ids[grid.id].astype(np.int32))
        if flags.label_event:
            if rows is None or rows.time is None:
                raise InputError(f"--label_event: {flags.labels} has no prediction times.")
            since = self._starts_before(rows.id, rows.time) if flags.start_code else None
            return event_labels(rows, flags.label_event, flags.horizon, self._label_marks(EVENT), since)
        if flags.label_present:
            has = np.zeros(len(events.ids), dtype=bool)
            has[self._label_marks(PRESENT).id] = True
            labels = present_labels(PRESENT, pa.array(has, mask=~has), np.ones_like(has))
            n = f"{has.sum():,} of {len(has):,}"
            note = f"the label is 1 for subjects that have an event {flags.label_present} at any time: {n}"
            return of_samples(replace(labels, notes=[note]), rows, len(has))
        return rows

    def _stays(self, events: Events) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """(subject [S], start [S], end [S]): the end is that of the end code, else the last event of the stay."""
        if not self._arguments.start_code:
            ids, start = np.arange(len(events.ids)), events.first_time
            end, last = self._ends_after(ids, start), last_times(events)
            return ids, start, np.where(is_bad(end), last, end)
        found = self._of(START)
        last = found.time.copy()
        for records in events.store.blocks():
            at = _count_before(found, records["id"], records["time"]) - 1
            inside = (at >= 0) & (found.id[at] == records["id"]) & ~is_bad(records["time"])
            np.maximum.at(last, at[inside], records["time"][inside])
        again = np.append(found.id[1:] == found.id[:-1], False)
        until = np.where(again, np.append(found.time[1:], 0) - 1, _LATEST)
        end = self._ends_after(found.id, found.time)
        return found.id, found.time, np.where(is_bad(end) | (end > until), last, end)

    def _ends_after(self, ids: NDArray[Any], time: NDArray[Any]) -> NDArray[Any]:
        """[M] The first end after each time of a subject; BAD_TIME where there is none."""
        found = self._of(END)
        return _times_at(found, _count_before(found, ids, time), ids)

    def _starts_before(self, ids: NDArray[Any], time: NDArray[Any]) -> NDArray[Any]:
        """[M] The last start at or before each time of a subject; BAD_TIME where there is none."""
        found = self._of(START)
        return _times_at(found, _count_before(found, ids, time) - 1, ids)

    def end(self, samples: Samples) -> StayEnd | None:
        """The first event with the end code after the start of each sample; unknown where there is none."""
        if self._arguments.end_code is None:
            return None
        return StayEnd(f"code {self._arguments.end_code}", self._ends_after(samples.id, samples.start), expected=False)

    def age(self, samples: Samples) -> list[StaticColumn]:
        """The age of each sample in years, at its prediction time, or at its start where it has none."""
        ids, time, _ = self._of(BIRTH)
        if not len(ids):
            return []
        birth = np.full(len(samples.id_text), _LATEST)
        np.minimum.at(birth, ids, time)
        known = np.flatnonzero(birth[samples.id] != _LATEST)
        at = np.where(is_bad(samples.end), samples.start, samples.end)[known]
        code, value = np.full(len(samples), UNNAMED, dtype=np.int32), np.full(len(samples), np.nan)
        years = pa.array((at - birth[samples.id][known]) / _YEAR)
        code[known], value[known] = self._codes.encode(pa.array([AGE] * len(known)), years)
        return [StaticColumn(AGE, code, value)]

    def with_starts(self, samples: Samples) -> tuple[Samples, list[Skip]]:
        """The samples from the last start at or before their prediction time; those without one are left out."""
        code = self._arguments.start_code
        if code is None:
            return samples, []
        start = self._starts_before(samples.id, np.where(is_bad(samples.end), _LATEST, samples.end))
        has = ~is_bad(start)
        reason = f"no event {code} before its prediction time"
        skips = [left_out(samples.stay(at), reason) for at in np.flatnonzero(~has).tolist()]
        return replace(samples, start=np.where(has, start, samples.start)).take(has), skips


def _count_before(found: Occurrences, ids: NDArray[Any], time: NDArray[Any]) -> NDArray[np.int64]:
    """[M] How many of the occurrences are of earlier subjects, or of the same one at or before the time."""
    all_ids, all_times = np.append(found.id, ids), np.append(found.time, time)
    is_asked = np.arange(len(all_ids)) >= len(found.id)
    order = np.lexsort((is_asked, all_times, all_ids))
    count = np.empty(len(order), dtype=np.int64)
    count[order] = np.cumsum(~is_asked[order])
    return count[len(found.id) :]


def _times_at(found: Occurrences, at: NDArray[np.int64], ids: NDArray[Any]) -> NDArray[Any]:
    """[M] The times of the occurrences at these positions; BAD_TIME where that is none of the subject."""
    inside = (at >= 0) & (at < len(found.id))
    place = np.where(inside, at, len(found.id))
    return np.where(np.append(found.id, -1)[place] == ids, np.append(found.time, BAD_TIME)[place], BAD_TIME)
