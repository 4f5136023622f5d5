"""What the codes of a MEDS data set say of its subjects: facts, births, the starts and ends of stays, label events.

Facts are events without a time, which count as known from the start. One that lost its time would be a leak.
Letters: D subjects, S stays, M times of subjects.
"""

from argparse import Namespace
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.cohort.report import most_events
from seqsetvae.cohort.sources.meds_files import AGE, BIRTH
from seqsetvae.cohort.tables.codes import UNNAMED
from seqsetvae.cohort.tables.events import Events, Occurrences
from seqsetvae.cohort.tables.label_rules import LabelRows, event_labels, of_samples, prediction_grid, present_labels
from seqsetvae.cohort.tables.source import StaticColumn, StayEnd
from seqsetvae.cohort.tables.stays import Samples
from seqsetvae.cohort.tables.times import BAD_TIME, MICROSECONDS, is_bad
from seqsetvae.cohort.tidy import Skip, left_out
from seqsetvae.system.errors import InputError, shown

_WHY = "An event without a time counts as a fact that is known from the start, before every prediction time."


class Facts:
    """The codes of rows without a time."""

    def __init__(self, src: Path, events: Events) -> None:
        """Ask the database of the events."""
        self._src, self._events, database = src, events, events.database
        database.name("names", events.codes.table())
        untimed = f"time = {BAD_TIME}" if events.time.is_timestamp else "isnan(time)"
        found = database.ask(
            f"SELECT name, bool_or(NOT ({untimed})) AS timed, min(row) FILTER ({untimed} AND NOT left_out) AS first, "
            f"count(*) FILTER ({untimed} AND NOT left_out AND numeric) AS n FROM events JOIN names USING (code) "
            "GROUP BY name ORDER BY name"
        ).to_pylist()
        again = database.ask(
            f"SELECT DISTINCT name FROM (SELECT id, name FROM events JOIN names USING (code) WHERE {untimed} AND NOT "
            "left_out GROUP BY id, name HAVING count(*) > 1) ORDER BY name"
        )
        self._first = {row["name"]: row["first"] for row in found if row["first"] is not None}  # code -> its first row
        self._timed = {row["name"] for row in found if row["timed"]}
        self._again = again["name"].to_pylist()  # codes that a subject has several times
        self._numbers = Counter({row["name"]: row["n"] for row in found if row["n"]})

    def check(self) -> None:
        """Raises InputError if there are no times, or if rows without one may have lost it."""
        time = self._events.time
        if self._first and not self._timed - {BIRTH}:
            raise InputError(f"{self._src / 'data'}: no event has a time. {_WHY}")
        if not time.is_timestamp:
            raise InputError(f"{self._src / 'data'}: the column time holds {time.described}, not timestamps.")
        wrong = sorted(self._first.keys() & (self._timed | {BIRTH}))  # a birth must have a time
        self._refuse("some rows of this code have a time, and others have none", wrong)
        self._refuse("one subject has this code several times, without a time", self._again)

    def _refuse(self, what: str, codes: list[str]) -> None:
        if codes:
            file, row = self._events.place(self._first[codes[0]])
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


START, END, EVENT, PRESENT = "start_code", "end_code", "label_event", "label_present"  # flags of codes
_YEAR = 365.25 * 24 * 60 * MICROSECONDS
_LATEST = np.iinfo(np.int64).max


class Marks:
    """When births and the codes of the flags occurred."""

    def __init__(self, events: Events, arguments: Namespace) -> None:
        """A flag that is not given has no marks."""
        self._events, self._arguments = events, arguments
        patterns = {flag: getattr(arguments, flag) for flag in (START, END, EVENT, PRESENT)}
        self._codes = {flag: [] if name is None else events.codes.matching(name) for flag, name in patterns.items()}

    def _label_marks(self, flag: str) -> Occurrences:
        found = self._events.occurrences(self._codes[flag], self._codes[START])
        if not len(found.id):
            raise InputError(f"--{flag} {getattr(self._arguments, flag)}: no event with a time has this code.")
        return found

    def labels(self, rows: LabelRows | None) -> LabelRows | None:
        """Labels and prediction times by the rules of the flags; `rows` are those of --labels.

        Raises:
            InputError: no event has the code of the label.
        """
        flags, n_ids = self._arguments, len(self._events.ids)
        if flags.predict_at or flags.predict_every:
            ids, start, end = self._stays()
            grid = prediction_grid(start, end, sorted(set(flags.predict_at)), flags.predict_every)
            rows = replace(grid, id=ids[grid.id].astype(np.int32))
        if flags.label_event:
            if rows is None or rows.time is None:
                raise InputError(f"--label_event: {flags.labels} has no prediction times.")
            since = self._starts_before(rows.id, rows.time) if flags.start_code else None
            return event_labels(rows, flags.label_event, flags.horizon, self._label_marks(EVENT), since)
        if flags.label_present:
            has = np.zeros(n_ids, dtype=bool)
            has[self._label_marks(PRESENT).id] = True
            labels = present_labels(PRESENT, pa.array(has, mask=~has), np.ones_like(has))
            n = f"{has.sum():,} of {len(has):,}"
            note = f"the label is 1 for subjects that have an event {flags.label_present} at any time: {n}"
            return of_samples(replace(labels, notes=[note]), rows, len(has))
        return rows

    def _stays(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """(subject [S], start [S], end [S]): the end is that of the end code, else the last event of the stay."""
        events = self._events
        if not self._arguments.start_code:
            ids, start = np.arange(len(events.ids)), events.first_time
            end = self._ends_after(ids, start)
            return ids, start, np.where(is_bad(end), events.last_time, end)
        found = events.occurrences(self._codes[START])
        last = events.last_times_since(found)
        again = np.append(found.id[1:] == found.id[:-1], False)
        until = np.where(again, np.append(found.time[1:], 0) - 1, _LATEST)
        end = self._ends_after(found.id, found.time)
        return found.id, found.time, np.where(is_bad(end) | (end > until), last, end)

    def _ends_after(self, ids: NDArray[Any], time: NDArray[Any]) -> NDArray[Any]:
        """[M] The first end after each time of a subject; BAD_TIME where there is none."""
        return self._events.nearest(self._codes[END], ids, time, later=True)

    def _starts_before(self, ids: NDArray[Any], time: NDArray[Any]) -> NDArray[Any]:
        """[M] The last start at or before each time of a subject; BAD_TIME where there is none."""
        return self._events.nearest(self._codes[START], ids, time, later=False)

    def end(self, samples: Samples) -> StayEnd | None:
        """The first event with the end code after the start of each sample; unknown where there is none."""
        if self._arguments.end_code is None:
            return None
        return StayEnd(f"code {self._arguments.end_code}", self._ends_after(samples.id, samples.start), expected=False)

    def age(self, samples: Samples) -> list[StaticColumn]:
        """The age of each sample in years, at its prediction time, or at its start where it has none."""
        codes = self._events.codes
        births = self._events.occurrences(sorted(set(codes.matching(BIRTH)) - set(codes.left_out_codes())))
        if not len(births.id):
            return []
        birth = np.full(len(samples.id_text), _LATEST)
        np.minimum.at(birth, births.id, births.time)
        known = np.flatnonzero(birth[samples.id] != _LATEST)
        at = np.where(is_bad(samples.end), samples.start, samples.end)[known]
        code, value = np.full(len(samples), UNNAMED, dtype=np.int32), np.full(len(samples), np.nan)
        years = pa.array((at - birth[samples.id][known]) / _YEAR)
        code[known], value[known] = codes.encode(pa.array([AGE] * len(known)), years)
        return [StaticColumn(AGE, code, value)]

    def with_starts(self, samples: Samples) -> tuple[Samples, list[Skip]]:
        """The samples from the last start at or before their prediction time; those without one are left out."""
        code = self._arguments.start_code
        if code is None:
            return samples, []
        start = self._starts_before(samples.id, np.where(is_bad(samples.end), _LATEST, samples.end))
        has = ~is_bad(start)
        reason = f"no event {code} before its prediction time"
        skips = [left_out(stay, reason) for stay in samples.stays()[~has]]
        return replace(samples, start=np.where(has, start, samples.start)).take(has), skips
