"""Labels and prediction times that are made of the data themselves.

Letters: D ids, M samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.cohort.tables.cells import in_column
from seqsetvae.cohort.tables.codes import EventCodes
from seqsetvae.cohort.tables.events import Events, Occurrences, clock_of, timed_parts
from seqsetvae.cohort.tables.forms import Form
from seqsetvae.cohort.tables.read import Part, read_parts
from seqsetvae.cohort.tables.stay_table import LabelRows, labels_of
from seqsetvae.cohort.tables.times import MICROSECONDS, TimeColumn, TimeFlags, is_bad
from seqsetvae.errors import InputError, counted, shown

EACH_ROW = "each_row"
LABELS_OF = ("any", "first", "last", EACH_ROW)


@dataclass(frozen=True)
class RowLabels:
    """A column of labels on each row of SRC, and how a stay's label follows from its rows."""

    column: str
    rule: str  # one of LABELS_OF
    id_column: str
    time_column: str


def row_labels(files: Sequence[Path], how: RowLabels, events: Events, form: Form, flags: TimeFlags) -> LabelRows:
    """One label a stay, or one for each row at its time. Rows with an empty label say nothing.

    `any`: 1 if a row has 1, else 0; `first`, `last`: that of the row with the earliest or the latest time.

    Raises:
        InputError: a label other than 0, 1, false, true and empty, or a time that counts has two different labels.
    """

    def clock_of_part(part: Part) -> TimeColumn:
        return clock_of(part.file, how.time_column, part.columns[how.time_column], events, flags)

    def rows_of(part: Part, clock: TimeColumn) -> tuple[NDArray[Any], ...]:
        ids, _ = events.ids.find(part.columns[how.id_column])
        read = partial(clock.read, part.columns[how.time_column], earliest=how.rule == EACH_ROW)
        time = in_column(str(part.file), how.time_column, read)
        label = labels_of(part.file, how.column, part.columns[how.column])
        known = (ids >= 0) & (label >= 0) & ~is_bad(time)
        return ids[known], time[known], label[known]

    needed = [how.id_column, how.time_column, how.column]
    timed = timed_parts(files, lambda file: read_parts(file, needed, form=form), clock_of_part)
    parts = [part.use(partial(rows_of, clock=clock)) for part, clock in timed]
    ids, time, label = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((label, time, ids))
    ids, time, label = ids[order], time[order], label[order]
    if how.rule != "any":
        _refuse_ties(how, ids, time, label, events)
    if how.rule == EACH_ROW:
        return LabelRows(ids, time, label, [f"each row with a {how.column} is a prediction at its time"])
    if how.rule == "any":
        found, start = np.unique(ids, return_index=True)
        chosen = np.maximum.reduceat(label, start) if len(found) else label
    else:
        at = ids if how.rule == "first" else ids[::-1]
        found, first = np.unique(at, return_index=True)
        chosen = (label if how.rule == "first" else label[::-1])[first]
    what = {"any": "1 if any row of the stay has 1", "first": "that of its first row", "last": "that of its last row"}
    note = f"the label of a stay is {what[how.rule]} of {how.column}: {_balance(chosen)}"
    return LabelRows(found.astype(np.int32), None, chosen, [note])


def _refuse_ties(
    how: RowLabels, ids: NDArray[np.int32], time: NDArray[Any], label: NDArray[np.int8], events: Events
) -> None:
    """Raises InputError if a time that counts by the rule has both labels. The rows are sorted by id, time, label."""
    tied = np.flatnonzero((ids[1:] == ids[:-1]) & (time[1:] == time[:-1]) & (label[1:] != label[:-1]))
    if how.rule == "first":
        tied = tied[time[tied] == time[np.searchsorted(ids, ids[tied])]]
    elif how.rule == "last":
        tied = tied[time[tied] == time[np.searchsorted(ids, ids[tied], "right") - 1]]
    if len(tied):
        stay, at = events.ids.texts[ids[tied[0]]].as_py(), events.time.text(time[tied[0]])
        advice = "Keep one of these rows" + ", or use --label_of any" * (how.rule != EACH_ROW)
        raise InputError(
            f"--label_of {how.rule}: stay {shown(stay)} has rows with {how.column} 0 and with 1 at one time, {at} "
            f"({counted(len(np.unique(ids[tied])), 'such stay')}). {advice}."
        )


def present_labels(name: str, column: pa.Array, has_row: NDArray[np.bool_]) -> LabelRows:
    """1 for the ids whose cell [D] is not empty, 0 for those whose cell is; ids without a row have no label."""
    label = np.where(has_row, np.asarray(column.is_valid()).astype(np.int8), -1).astype(np.int8)
    note = f"the label of a stay is 1 if its {name} is not empty: {_balance(label)}"
    return LabelRows(np.arange(len(column), dtype=np.int32), None, label, [note])


def _balance(label: NDArray[np.int8]) -> str:
    return f"1 in {(label == 1).sum():,}, 0 in {(label == 0).sum():,}"


def prediction_grid(start: NDArray[Any], last: NDArray[Any], hours: Sequence[float], every: float | None) -> LabelRows:
    """Prediction times without labels: at these hours after the start of each stay, or every so many hours of it.

    Args:
        start: [D] minute 0 of each id, on the clock of the events.
        last: [D] the end of each stay, or its last event, on that clock.
        hours: after the start; a stay that has ended by then has no such sample.
        every: hours between predictions, the first so many hours after the start; None: `hours` are given.
    """
    unit = 60 * MICROSECONDS if start.dtype == np.int64 else 60.0
    good = np.flatnonzero(~is_bad(start) & ~is_bad(last))
    length = (last[good] - start[good]) / unit  # hours
    if every is not None:
        n = np.maximum(np.floor(length / every), 0).astype(np.int64)
        step = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n) + 1
        ids, hour = np.repeat(good, n), step * every
        note = f"predictions every {every:g} hours of a stay: {len(ids):,} of {counted(len(good), 'stay')}"
    else:
        ids, hour = np.repeat(good, len(hours)), np.tile(np.asarray(hours, dtype=float), len(good))
        lasts = np.repeat(length, len(hours)) >= hour
        ids, hour, n_short = ids[lasts], hour[lasts], int((~lasts).sum())
        listed = ", ".join(f"{h:g}" for h in hours)
        note = f"predictions at hour {listed} of a stay; left out, since the stay had ended: {n_short:,}"
    time = start[ids] + (hour * unit).astype(start.dtype)
    return LabelRows(ids.astype(np.int32), time, np.full(len(ids), -1, dtype=np.int8), [note])


def event_labels(
    rows: LabelRows, name: str, horizon: float | None, found: Occurrences, since: NDArray[Any] | None = None
) -> LabelRows:
    """1 for the samples after whose prediction time the event occurs, within `horizon` hours if that is given.

    Samples whose stay had the event before are left out: it can no longer be predicted.

    Args:
        rows: samples with prediction times.
        name: of the event, for messages.
        horizon: in hours; None: until the end of the records.
        found: when it occurred.
        since: [M] when the stay of each sample starts; None: each id is one stay.
    """
    assert rows.time is not None, "the flags were checked"
    ids, time = found.id, found.time
    unit = 60 * MICROSECONDS if time.dtype == np.int64 else 60.0
    first, end = np.searchsorted(ids, rows.id), np.searchsorted(ids, rows.id, side="right")
    latest = np.full(len(rows.id), np.inf) if horizon is None else rows.time + horizon * unit
    label, had = np.zeros(len(rows.id), np.int8), np.zeros(len(rows.id), bool)
    for at in np.flatnonzero(end > first).tolist():
        times = time[first[at] : end[at]]
        before = (times < rows.time[at]) & ~found.opens[first[at] : end[at]]
        had[at] = (before if since is None else before & (times >= since[at])).any()
        label[at] = ((times >= rows.time[at]) & (times <= latest[at])).any()
    within = "at any later time" if horizon is None else f"within {horizon:g} hours"
    notes = [
        f"the label is 1 if {name} occurs {within}, at or after the prediction time: {_balance(label[~had])}; it is 0 "
        "also where the records of a stay end before. Left out, since it had occurred before: "
        f"{counted(int(had.sum()), 'sample')}"
    ]
    return replace(rows, id=rows.id[~had], time=rows.time[~had], label=label[~had], notes=[*rows.notes, *notes])


def _why_absent(name: str, codes: EventCodes) -> str:
    if codes.has_left_out(name):
        return (
            "--leave_out takes this variable out. Leave it in: it is never an input, since only events before the "
            "prediction time are, and stays that had it by then are left out."
        )
    return "no event of the data is of this variable or level NAME=level."


def occurrences(name: str, events: Events, codes: EventCodes) -> Occurrences:
    """When the event of this name occurred.

    Args:
        name: a variable, or a level NAME=level, by its name in the tables or in the cohort.
        events: of the source.
        codes: of their variables.

    Raises:
        InputError: no event has this name.
    """
    wanted = codes.named(name)
    if not codes.counts[wanted].any():
        raise InputError(f"--label_event {name}: {_why_absent(name, codes)}")
    return events.occurrences(np.flatnonzero(wanted).tolist())
