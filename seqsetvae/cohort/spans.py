"""When stays begin and end in the source, before rows after a prediction time are cut off.

One absurd time makes a stay of millions of hours, and another clock (seconds since 1970, days of a spreadsheet) puts
all events far from minute 0. Neither can be seen in the arrays of a cohort that was cut. Facts, which have no time of
their own, do not count. Letters: N stays.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.sidefiles import LabelTable
from seqsetvae.cohort.tidy import Bools, Floats, Rows, Stays
from seqsetvae.system.errors import ERROR, WARNING, Finding, InputError, counted

TIMES = "times"  # in the report of a manifest
DAY = 1440.0
YEAR = 365 * DAY
LIFE = 130 * YEAR  # no record of a person is longer
FAR = 30 * DAY  # a first event further from minute 0 is reported
OTHER_CLOCK = 10 * YEAR  # half of all first events beyond this: the numbers do not count from the start of a stay
MANY_TIMES = 20.0  # a stay so much longer than half of all is reported where most last for years
EXAMPLES = 10
FEWEST_SERIALS = 5  # stays: fewer may begin a month after minute 0 by chance
SERIALS = (30_000.0, 110_000.0)  # days of a spreadsheet, 1982 to 2201
EPOCHS = {"seconds": 1e8, "milliseconds": 1e11, "microseconds": 1e14, "nanoseconds": 1e17}  # from 1973, to 2286
DATES = {"YYYYMMDD": "%Y%m%d", "YYYYMMDDHHMM": "%Y%m%d%H%M", "YYYYMMDDHHMMSS": "%Y%m%d%H%M%S"}


class StaySpans(NamedTuple):
    """First and last times of the stays of a chunk that have events with a time."""

    stays: Stays  # N
    first: Floats  # [N] minute of the first event
    last: Floats  # [N]
    n_early: NDArray[np.int64]  # [N] events before minute 0 that are used
    is_over: Bools  # [N] it is used, and has no event at or after its prediction time


def spans_of(before: Rows, used: Rows) -> StaySpans:
    """The spans of stays before anything was cut off, and what of them is used."""
    timed = np.ones(len(before.minute), dtype=bool) if before.is_fact is None else ~before.is_fact
    n_rows = np.bincount(before.stay_of_row[timed], minlength=len(before.stays))
    has = np.flatnonzero(n_rows)
    starts, minute = (np.cumsum(n_rows) - n_rows)[has], before.minute[timed]
    first, last = (each.reduceat(minute, starts) if len(has) else np.zeros(0) for each in (np.minimum, np.maximum))
    stays = before.stays[has]
    is_used = np.isin(stays.place, used.stays.place)
    n_early = np.zeros(len(stays), dtype=np.int64)
    n_early[is_used] = np.bincount(used.stay_of_row[used.minute < 0], minlength=len(used.stays))
    return StaySpans(stays, first, last, n_early, is_used & (last < stays.prediction_minute))


@dataclass
class Spans:
    """First and last times of all stays of a compilation."""

    first: list[Floats] = field(default_factory=list)
    last: list[Floats] = field(default_factory=list)
    longest: list[tuple[float, str]] = field(default_factory=list)  # (minutes, the stay in words)
    furthest: list[tuple[float, str]] = field(default_factory=list)  # (minutes from 0 to the first event, likewise)
    early: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, dtype=np.int64))  # events, stays
    over: NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, dtype=np.int64))  # stays, labelled, positives

    def add(self, part: StaySpans, labels: LabelTable) -> None:
        """Add the stays of a chunk."""
        self.first.append(part.first)
        self.last.append(part.last)
        self.early += (part.n_early.sum(), (part.n_early > 0).sum())
        label = labels.lookup(part.stays.stay_id[part.is_over])
        self.over += (len(label), (label >= 0).sum(), (label == 1).sum())
        far = ((self.longest, part.last - part.first, YEAR), (self.furthest, np.abs(part.first), FAR))
        for most, minutes, above in far:
            for at in np.flatnonzero(minutes > above).tolist():
                where = f"{part.stays[at].file}: from minute {part.first[at]:,.0f} to {part.last[at]:,.0f}"
                most.append((float(minutes[at]), where))
            most.sort(key=lambda item: -item[0])
            del most[EXAMPLES:]

    def as_plain(self) -> dict[str, Any]:
        """A dictionary for the manifest. Where most stays last for years, one is long that is far longer than these."""
        first, last = np.concatenate(self.first), np.concatenate(self.last)
        median = float(np.median(last - first))
        limit = max(YEAR, MANY_TIMES * median) if YEAR / 4 < median < LIFE else YEAR
        return {
            "median_minutes": median,
            "median_first": float(np.median(first)),
            "longest": _count(last - first, limit, self.longest),
            "furthest": {**_count(np.abs(first), FAR, self.furthest), "of": len(first)},
            "before_start": dict(zip(("events", "stays"), self.early.tolist(), strict=True)),
            "over": dict(zip(("stays", "labelled", "positives"), self.over.tolist(), strict=True)),
        }


def _count(minutes: Floats, above: float, examples: list[tuple[float, str]]) -> dict[str, Any]:
    shown = [text for each, text in examples if each > above]
    return {"stays": int((minutes > above).sum()), "above": above, "most": float(minutes.max()), "examples": shown}


def span_findings(times: Mapping[str, Any], n_events: int, examples: int) -> Iterator[Finding]:
    """What is odd about the times of a cohort of so many events.

    `times` is as `Spans.as_plain` made it; `examples` stays are named for each finding.
    """
    long, far, early = times["longest"], times["furthest"], times["before_start"]
    if long["stays"]:
        years, median = counted(round(long["above"] / YEAR), "year"), times["median_minutes"] / 60
        yield Finding(
            ERROR if long["most"] > LIFE else WARNING,
            f"{counted(long['stays'], 'stay')} of more than {years} from first to last event, before anything is cut "
            f"off (the longest {long['most'] / 60:,.0f} hours, half of all at most {median:,.1f})",
            "One mistyped time does that, and may move all others of its stay",
            tuple(long["examples"][:examples]),
        )
    if far["stays"]:
        yield Finding(
            ERROR if times["median_first"] > YEAR else WARNING,
            f"{far['stays']:,} of {counted(far['of'], 'stay')} have their first event more than {far['above'] / DAY:g} "
            f"days from minute 0 (the furthest {far['most'] / 60:,.0f} hours)",
            "Is the start of these stays right?",
            tuple(far["examples"][:examples]),
        )
    if early["events"]:
        share = f"{early['events']:,} of {counted(n_events, 'event')} ({early['events'] / n_events:.1%})"
        yield Finding(
            WARNING, f"{share} of {counted(early['stays'], 'stay')} are before minute 0, the start; they are used"
        )


# ------------------------------------------------------------------ numbers of another clock


def refuse_other_clocks(first: Floats, unit_minutes: float, unit: str) -> None:
    """Raises InputError if numbers do not count from the start of their stays.

    Args:
        first: [N] minute of the first event of each stay.
        unit_minutes: minutes in one unit of the numbers of the source.
        unit: its name.
    """
    numbers = first / unit_minutes
    advice = (
        "Times that are numbers count from the start of the stay, minute 0. Write them so, or as timestamps such as "
        "2020-01-31 12:30; in a long table, --start_column names the column with the start on the same clock, and "
        "--time_unit the unit."
    )
    kind = _kind_of_clock(numbers, unit)
    if kind is None and np.median(first) > OTHER_CLOCK:
        kind = "more than ten years after the start of the stay"
    if kind is not None:
        some = ", ".join(f"{number:.12g}" for number in np.sort(numbers)[[0, len(numbers) // 2]])
        raise InputError(f"The times of the first events, such as {some} {unit}, are {kind}. {advice}")


def _kind_of_clock(numbers: Floats, unit: str) -> str | None:
    """What most of these numbers are instead of the time since the start of a stay; None if they may be that."""
    for form, time_format in DATES.items():
        if _are_dates(numbers, len(form)).mean() > 0.5:
            return f"dates written as {form}: read them with --time_format {time_format}"
    for name, least in EPOCHS.items():
        if ((numbers >= least) & (numbers < 100 * least)).mean() > 0.5:
            return f"{name} since 1970, by their size"
    if len(numbers) >= FEWEST_SERIALS and unit != "seconds" and (np.clip(numbers, *SERIALS) == numbers).all():
        return "days since 1900 as a spreadsheet writes dates, by their size"
    return None


def _are_dates(numbers: Floats, digits: int) -> Bools:
    """[N] Which numbers are dates of 1800 to 2300 with so many digits."""
    rest = np.where((numbers >= 10.0 ** (digits - 1)) & (numbers % 1 == 0) & (numbers < 10.0**digits), numbers, 0)
    rest = (rest // 10 ** (digits - 8)).astype(np.int64)
    year, month, day = rest // 10_000, rest // 100 % 100, rest % 100
    return (year >= 1800) & (year < 2300) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
