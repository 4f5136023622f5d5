"""Facts of MEDS: events without a time, which count as known from the start. One that lost its time would be a leak."""

from collections import Counter
from pathlib import Path

from seqsetvae.cohort.report import most_events
from seqsetvae.cohort.sources.meds_files import BIRTH
from seqsetvae.cohort.tables.events import Events
from seqsetvae.cohort.tables.times import BAD_TIME
from seqsetvae.errors import InputError, shown

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
