"""What the cells of a column of times mean, and local times of a place as points of time. Letters: R rows of a part.

Arrow repeats the last offset of its tables of zones after 2037 and moves all of a skipped hour to one instant, so
`zoneinfo` is asked here. It is slow, so it is asked once a day, and for single times on days on which the offset
changes.
"""

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsetvae.cohort.tables.cells import as_text, cast_cells, in_column, is_text, split_values
from seqsetvae.system.errors import InputError, shown

DAY = 86_400_000_000  # microseconds
_EPOCH = datetime(1970, 1, 1)
_CHANGES = np.iinfo(np.int64).max  # in place of the offset of a day that has several
_FIXED = re.compile(r"([+-])(\d\d):?(\d\d)")


class Zone:
    """The offsets of a time zone, kept by day."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._of_day: dict[int, int] = {}  # days since 1970 -> microseconds from UTC, or _CHANGES

    def utc(self, local: NDArray[np.int64], *, earliest: bool = False) -> NDArray[np.int64]:
        """Points of time of local times, both in microseconds since 1970, in years 2 to 9998.

        A time that occurs twice in autumn counts as the earlier one. A time that is skipped in spring counts as that of
        a clock that was not set forward, which keeps the distances between such times; with `earliest`, as that of one
        that was set forward too early, so that nothing that was written down later comes before it.
        """
        days, place = np.unique(local // DAY, return_inverse=True)
        offset = np.array([self._offset(day) for day in days.tolist()], dtype=np.int64)[place]
        single, where = np.unique(local[offset == _CHANGES], return_inverse=True)
        folds = (0, 1) if earliest else (0,)
        offsets = [max(self._offset_at(time, fold) for fold in folds) for time in single.tolist()]
        offset[offset == _CHANGES] = np.array(offsets, dtype=np.int64)[where]
        return local - offset

    def _offset(self, day: int) -> int:
        if day not in self._of_day:
            ends = {self._offset_at(at * DAY, fold) for at in (day, day + 1) for fold in (0, 1)}
            self._of_day[day] = ends.pop() if len(ends) == 1 else _CHANGES
        return self._of_day[day]

    def _offset_at(self, local: int, fold: int) -> int:
        time = (_EPOCH + timedelta(microseconds=local)).replace(fold=fold)
        offset = self._zone.utcoffset(time)
        assert offset is not None
        return offset // timedelta(microseconds=1)


@lru_cache
def find_zone(name: str) -> Zone:
    """The zone of a name such as Europe/Berlin, or of a fixed offset such as +01:00. Raises InputError."""
    if fixed := _FIXED.fullmatch(name):
        sign, hours, minutes = fixed.groups()
        return Zone(timezone(timedelta(hours=int(sign + hours), minutes=int(sign + minutes))))
    try:
        return Zone(UTC if name == "UTC" else ZoneInfo(name))
    except (KeyError, ValueError, OSError):  # no such key; no name at all; a folder of zones
        raise InputError(
            f"--time_zone {name}: this computer knows no such zone; zones are named as Europe/Berlin (where it has no "
            "table of zones at all: pip install tzdata)"
        ) from None


MICROSECONDS = 60_000_000  # in a minute
BAD_TIME = np.iinfo(np.int64).min  # a timestamp that is missing
_UNREADABLE = BAD_TIME + 1  # one that is there and cannot be read
MINUTES = {"milliseconds": 1 / 60_000, "seconds": 1 / 60, "minutes": 1.0, "hours": 60.0, "days": 1440.0}
MINUTES |= {"weeks": 10080.0, "years": 525_960.0}
DURATION = "duration"  # a unit of times in text, which are written 26:30, 26:30:15 or 1 days 02:30:00
YEARS = (1600, 2999)  # of timestamps; others are two digits read as a year, another calendar, or stand for "never"
_BOUNDS = tuple(int(np.datetime64(f"{year}-01-01", "s").astype(np.int64)) for year in (YEARS[0], YEARS[1] + 1))
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_WITH_ZONE = re.compile(r"(Z| UTC|[+-]\d\d:?(\d\d)?)$")
_OTHER_MARK = {".": ",", ",": "."}  # of decimals
_SPACED = r" ([+-][0-9]{2}(:?[0-9]{2})?)$"  # an offset after a space
_DATE_LENGTH = len("2150-01-31")
_DURATION = (
    r"^(?P<sign>-?)(?:(?P<d>[0-9]+) days?,? *)?(?P<h>[0-9]+):(?P<m>[0-5][0-9])(?::(?P<s>[0-5][0-9](?:\.[0-9]+)?))?$"
)
_DIRECTIVES = "aAbBdDeFhHIjmMnpRStTyYz%"  # that are both read and written, so that a date can be formatted back


class TimeFlags(NamedTuple):
    """How times are written, by the flags."""

    unit: str = "minutes"  # of times that are numbers, a key of MINUTES
    form: str | None = None  # of timestamps in text, as for strptime; None: ISO 8601
    zone: str | None = None  # of timestamps without one, such as Europe/Berlin; None: one clock without shifts
    origin: int | None = None  # in microseconds; timestamps become numbers, the minutes since then
    decimal: str = "."  # the mark of the decimals, of numbers in text


class TimeColumn:
    """How the times of a table are written, found in its first cells: numbers, or timestamps with or without a zone.

    Attributes:
        is_timestamp: else a time is a number.
        is_date: they are dates without a time of day.
        n_dates: cells read so far that are dates alone, in a column of timestamps.
    """

    def __init__(self, column: pa.Array, flags: TimeFlags = TimeFlags()) -> None:  # noqa: B008  (immutable)
        """Look at some cells, those of the first part.

        Raises:
            InputError: the cells are times of a day, or durations; there is no such zone; a date cannot be read by
                the format, or not for sure.
        """
        column = _decoded(column)
        unit, form, zone, origin, decimal = flags
        kind = column.type
        _refuse_other_times(kind)
        self.n_dates = 0
        self.is_duration = pa.types.is_duration(kind) or (unit == DURATION and is_text(kind))
        self.unit, self.origin, self.decimal = "minutes" if unit == DURATION else unit, origin, decimal
        self.form = None if form is None or pa.types.is_temporal(kind) else _checked_form(form)
        self.zone = None if zone is None else find_zone(zone)
        self.is_date = pa.types.is_date(kind)
        self.is_timestamp = (pa.types.is_temporal(kind) or self.form is not None) and not self.is_duration
        self.has_zone = pa.types.is_timestamp(kind) and kind.tz is not None
        if self.form is not None:
            self.has_zone = self.form.endswith(("%z", "Z"))
            self.is_date = not re.search("%[HITR]", self.form)
        elif is_text(kind) and not self.is_duration:
            first = as_text(column.drop_null()[:1000]).drop_null()
            n_numbers = sum(split_values(first, mark)[1].null_count for mark in _OTHER_MARK)  # with either mark
            self.is_timestamp = 2 * n_numbers < len(first)
            self.has_zone = 2 * sum(bool(_WITH_ZONE.search(text[10:])) for text in first.to_pylist()) > len(first)
            self.is_date = self.is_timestamp and all(len(text) == _DATE_LENGTH for text in first.to_pylist())
        self.is_timestamp &= origin is None

    @property
    def dtype(self) -> type[np.generic]:
        """Timestamps are microseconds in UTC, int64; other times are minutes, float64."""
        return np.int64 if self.is_timestamp else np.float64

    @property
    def kind(self) -> tuple[bool, ...]:
        """What may differ between the files of a source."""
        return self.is_timestamp, self.is_date, self.has_zone, self.is_duration

    @property
    def is_located(self) -> bool:
        """Whether its timestamps are points of time, by their own zones or that of the user."""
        return self.has_zone or self.zone is not None

    @property
    def described(self) -> str:
        """What a time of this column is, for messages."""
        if self.is_duration:
            return "a duration, such as 26:30 or 1 days 02:30:00"
        if not self.is_timestamp:
            return f"a number of {self.unit}"
        if self.form is not None:
            return f"a timestamp like {self.form}"
        return f"a timestamp {'with' if self.has_zone else 'without'} a time zone"

    @property
    def allowed(self) -> str:
        """What can be read, for messages about a cell that cannot."""
        return f"{self.described}, in the years {YEARS[0]} to {YEARS[1]}" if self.is_timestamp else self.described

    def refused(self, cell: object) -> str:
        """What is wrong with a cell that could not be read, and what to do, for messages."""
        text, mark = "" if cell is None else str(cell).strip(), _OTHER_MARK[self.decimal]
        is_other = not self.is_timestamp and re.fullmatch(rf"[+-]?\d*{re.escape(mark)}\d+", text)
        advice = f" (pass --decimal {mark} if it is a number)" if is_other else ""
        return f"{shown(text) if text else 'an empty cell'} is not {self.allowed}{advice}"

    def text(self, time: np.generic) -> str:
        """A time that was read, for messages."""
        if not self.is_timestamp:
            return f"{in_unit(np.array([time]), self.unit)[0]:.15g} {self.unit}"
        return np.datetime64(int(time), "us").item().isoformat(" ") + " UTC" * self.is_located

    def read(self, column: pa.Array, *, earliest: bool = False) -> NDArray[Any]:
        """[R] Times in `dtype`; those of cells that are empty (BAD_TIME) or something else are bad: see `is_bad`.

        `earliest` is for prediction times: see `Zone.utc`.
        """
        if self.is_duration:
            return _durations(column)
        if not self.is_timestamp and self.origin is None:
            numbers = split_values(column, self.decimal)[0] * MINUTES[self.unit]
            return np.where(np.isfinite(numbers), numbers, np.nan)
        time = self._stamps(column)
        if self.zone is not None and not self.has_zone:
            good = ~is_bad(time)
            time[good] = self.zone.utc(time[good], earliest=earliest)
        if self.origin is not None:
            return np.where(is_bad(time), np.nan, (time - self.origin) / MICROSECONDS)
        return time

    def _stamps(self, column: pa.Array) -> NDArray[np.int64]:
        """[R] Microseconds, on the clock of the column."""
        column = _decoded(column)
        _refuse_other_times(column.type)
        bad = np.where(column.is_null(), BAD_TIME, _UNREADABLE)
        if self.form is not None and not pa.types.is_temporal(column.type):
            column = _by_form(as_text(column), self.form)
        elif is_text(column.type):
            column = pc.utf8_trim_whitespace(column)
            if not self.is_date:
                self.n_dates += pc.sum(pc.equal(pc.binary_length(column), _DATE_LENGTH)).as_py() or 0
            if self.has_zone:
                column = pc.replace_substring_regex(pc.replace_substring_regex(column, " UTC$", "Z"), _SPACED, r"\1")
            kind = pa.timestamp("us", "UTC" if self.has_zone else None)
            try:
                column = column.cast(kind)
            except pa.ArrowInvalid:  # or digits beyond the microsecond, which are cut off
                column = cast_cells(pc.replace_substring_regex(column, r"(:[0-9]{2}\.[0-9]{6})[0-9]+", r"\1"), kind)
        elif not pa.types.is_temporal(column.type):
            return bad
        if pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("s"))
        each = _PER_SECOND[column.type.unit]
        time = pc.fill_null(column.cast(pa.int64()), BAD_TIME).to_numpy(zero_copy_only=False)
        low, high = (max(-(2**63) + 1, min(bound * each, 2**63 - 1)) for bound in _BOUNDS)
        good = (time >= low) & (time < high)
        micros = time // (each // 10**6) if each > 10**6 else time * np.where(good, 10**6 // each, 1)
        return np.where(good, micros, bad)


def is_bad(time: NDArray[Any]) -> NDArray[np.bool_]:
    """Which times are missing or could not be read."""
    return time <= _UNREADABLE if time.dtype == np.int64 else np.isnan(time)


def in_unit(minutes: NDArray[np.float64], unit: str) -> NDArray[np.float64]:
    """Minutes as numbers of a unit of MINUTES that convert back exactly; short ones first, such as 7.3.

    >>> in_unit(np.array([90.0, 0.3 * 60]), "hours").tolist()
    [1.5, 0.3]
    """
    factor = MINUTES[unit]
    number = minutes / factor
    shortest = number.copy()
    for candidate in (np.nextafter(number, -np.inf), np.nextafter(number, np.inf), number, np.round(number, 9)):
        shortest = np.where(candidate * factor == minutes, candidate, shortest)
    return shortest


def comparable(
    where: str, name: str, column: pa.Array, events: TimeColumn, flags: TimeFlags, others: str = "times of events"
) -> TimeColumn:
    """How a column of times is written; that of the events if it has none.

    Raises:
        InputError: its times cannot be compared with those of the events, which are called `others`.
    """
    time = in_column(where, name, lambda: TimeColumn(column, flags))
    if column.null_count == len(column):
        return events if time.origin is None else time
    what = f"{where}, column {name}: is {time.described}; {others} are {events.described}."
    if time.is_timestamp != events.is_timestamp:
        raise InputError(what)
    if time.is_timestamp and time.is_located != events.is_located:
        raise InputError(
            f"{what} Write both with a zone or both without one, or say with --time_zone (data.py table) where those "
            "without one were recorded."
        )
    return time


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _refuse_other_times(kind: pa.DataType) -> None:
    """Raises InputError for a type of times that are not points of time."""
    is_known = pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_duration(kind)
    if pa.types.is_temporal(kind) and not is_known:
        raise InputError(f"holds {kind}; allowed: timestamps, dates, durations, texts or numbers")


def _durations(column: pa.Array) -> NDArray[np.float64]:
    """[R] Durations in minutes, NaN where a cell is empty or something else; `26:30` is hours and minutes."""
    if pa.types.is_duration(column.type):
        micros = pc.fill_null(column.cast(pa.duration("us")).cast(pa.int64()), BAD_TIME).to_numpy(zero_copy_only=False)
        return np.where(micros == BAD_TIME, np.nan, micros / MICROSECONDS)
    parts = pc.extract_regex(as_text(column), _DURATION)
    days, hours, minutes, seconds = (
        pc.fill_null(cast_cells(pc.replace_substring_regex(parts.field(at), "^$", "0"), pa.float64()), np.nan)
        for at in range(1, 5)
    )
    length = days.to_numpy() * 1440 + hours.to_numpy() * 60 + minutes.to_numpy() + seconds.to_numpy() / 60
    sign = np.where(pc.equal(parts.field(0), "-").fill_null(False).to_numpy(zero_copy_only=False), -1, 1)
    return np.where(np.asarray(parts.is_valid()), sign * length, np.nan)


# ------------------------------------------------------------------------------------------------ times by a format


def _checked_form(form: str) -> str:
    """A format without the flags of numbers (%-d is read as %d). Raises InputError if it may misread a time."""
    form = re.sub(r"%[-_0](?=[a-zA-Z])", "%", form)
    letters = re.findall("%(.?)", form)
    unknown = [f"%{letter}" for letter in letters if not letter or letter not in _DIRECTIVES]
    has_day = {"j", "D", "F"} & set(letters) or ({"d", "e"} & set(letters) and {"m", "b", "B", "h"} & set(letters))
    wrong = {
        f"{', '.join(unknown)} cannot be read; allowed: {', '.join(f'%{letter}' for letter in _DIRECTIVES)}": unknown,
        "it lacks the year": not {"Y", "y", "D", "F"} & set(letters),
        "it lacks the day or the month": not has_day,
        "%I is the hour of 12 and needs %p": "I" in letters and "p" not in letters,
        "%p belongs to %I; with %H it changes nothing": "p" in letters and "I" not in letters,
        "%z must be at its end": "z" in letters[:-1] or ("z" in letters and not form.endswith("%z")),
    }
    for why, is_wrong in wrong.items():
        if is_wrong:
            raise InputError(f"--time_format {form!r}: {why}")
    return form


def _by_form(text: pa.Array, form: str) -> pa.Array:
    """[R] Timestamps that are written in a format; null where the time that was read is formatted otherwise.

    The reader takes 31 February for 3 March, and a second 60 for the next minute.
    """
    time = pc.strptime(text, form, "us", error_is_null=True)
    if not form.endswith("%z"):
        return pc.if_else(_is_written_so(time, text, form), time, None)
    text = pc.utf8_trim_whitespace(pc.replace_substring_regex(text, r"(Z|[+-][0-9]{2}:?([0-9]{2})?)$", ""))
    form = form.removesuffix("%z").rstrip()
    local = pc.strptime(text, form, "us", error_is_null=True)
    offset = pc.abs(pc.subtract(local.cast(pa.int64()), time.cast(pa.int64())))
    return pc.if_else(pc.and_(_is_written_so(local, text, form), pc.less(offset, DAY)), time, None)


def _is_written_so(time: pa.Array, text: pa.Array, form: str) -> pa.Array:
    """[R] Whether a time is written as the text in this format; null where there is none."""
    written = pc.strftime(time.cast(pa.timestamp("s")), form)
    same = pc.equal(written, text)
    if pc.all(same).as_py() is not False:
        return same
    return pc.or_(same, pc.equal(_comparable_text(written), _comparable_text(text)))


def _comparable_text(text: pa.Array) -> pa.Array:
    """[R] Texts without leading zeros, case, runs of spaces, and letters after the third of a name."""
    for pattern, kept in ((r"\s+", " "), (r"(^|[^0-9])0+([0-9])", r"\1\2"), (r"([a-z]{3})[a-z]+", r"\1")):
        text = pc.replace_substring_regex(pc.utf8_lower(text), pattern, kept)
    return pc.utf8_trim_whitespace(text)
