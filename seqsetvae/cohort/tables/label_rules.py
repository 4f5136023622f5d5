"""Labels and prediction times by id: from a table of labels, or made of the data themselves by a rule.

Letters: D ids, M samples.
"""

from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.cohort.imported import PREDICTION_TIME
from seqsetvae.cohort.tables.cells import as_id_texts, as_text, in_column
from seqsetvae.cohort.tables.events import Events, Occurrences, clock_of, match_notes, timed_parts
from seqsetvae.cohort.tables.forms import USUAL, Form
from seqsetvae.cohort.tables.labels import OTHER, LabelFile, label_codes, label_rule, levels_of, no_label
from seqsetvae.cohort.tables.read import Part, column_names, read_parts, read_table
from seqsetvae.cohort.tables.times import MICROSECONDS, TimeColumn, TimeFlags, is_bad
from seqsetvae.system.errors import InputError, counted, named, shown


@dataclass(frozen=True)
class LabelRows:
    """The rows of a table of labels whose ids have events."""

    id: NDArray[np.int32]  # [M] position among the ids
    time: NDArray[Any] | None  # [M] prediction time; None: the table has none
    label: NDArray[np.int8]  # [M] 0, 1 or -1
    notes: list[str]
    meaning: tuple[str, ...] = ()  # what --label_positive makes of the values


NOT_BINARY = " (--label_positive says which values mean 1)"


def read_label_rows(
    files: Sequence[Path],
    id_column: str,
    time_column: str | None,
    label: str | None,
    events: Events,
    flags: TimeFlags,
    positive: Sequence[str] = (),
    form: Form = USUAL,
) -> LabelRows:
    """Labels by (id, prediction time); `label` None: the tables have prediction times alone.

    Raises:
        InputError: as `LabelFile`: a row without id or prediction time, a label other than 0 and 1 or empty (unless
            `positive` are the values that mean 1), two labels for one sample; or no row of an id with events, or none
            with such a value.
    """
    columns = [name for name in (id_column, time_column, label) if name is not None]
    file = LabelFile([Part(path, 0, read_table(path, columns, form=form)) for path in files])
    ids = events.ids.find(file.ids(id_column, events.ids.texts))
    label_of = np.full(len(ids), -1, dtype=np.int8)
    if label is not None:
        label_of = file.labels(label, label_rule(positive), NOT_BINARY)
    time, notes = (None, []) if time_column is None else file.times(time_column, events.time, flags)
    known = np.flatnonzero(ids >= 0)
    rows_of_id = np.bincount(ids[known], minlength=len(events.ids))
    notes = (
        match_notes(f"{file.path}, column {id_column}", events, len(ids), rows_of_id, file.first_cell(id_column))
        + notes
    )
    file.refuse_contradictions(id_column, [ids] if time is None else [time, ids], [label_of], known)
    meaning = () if label is None or not positive else (_meaning(label, positive, file.levels(label)),)
    return LabelRows(ids[known], None if time is None else time[known], label_of[known], notes, meaning)


def _meaning(column: str, positive: Sequence[str], levels: Mapping[str, int]) -> str:
    """What --label_positive makes of the values of a column, `levels`, of which each has so many rows.

    Raises:
        InputError: one of the values does not occur.
    """
    as_label = label_rule(positive)
    for value in positive:
        if not any(label_rule([value])(text) == "1" for text in levels):
            there = named([shown(text) for text in sorted(levels, key=levels.__getitem__, reverse=True)]) or "none"
            raise InputError(f"--label_positive {shown(value)}: no cell of {column} has this value, but {there}.")
    of_label = [
        named([f"{shown(text)} ({counted(n, 'row')})" for text, n in levels.items() if as_label(text) == label])
        for label in "10"
    ]
    return f"{column}: label 1 is {of_label[0]}, label 0 is {of_label[1] or 'none'}"


EACH_ROW = "each_row"
LABELS_OF = ("any", "first", "last", EACH_ROW)


def row_labels(
    files: Sequence[Path], column: str, rule: str, events: Events, positive: Sequence[str] = ()
) -> LabelRows:
    """One label a stay, or one for each row at its time. Rows with an empty label say nothing.

    `any`: 1 if a row has 1, else 0; `first`, `last`: that of the row with the earliest or the latest time.

    Raises:
        InputError: a label other than 0, 1, false, true and empty (unless `positive` are the values that mean 1), or a
            time that counts has two different labels.
    """
    levels: Counter[str] = Counter()

    form = events.form

    def rows_of(part: Part, clock: TimeColumn) -> tuple[NDArray[Any], ...]:
        where, cells = str(part.file), part.columns
        ids = events.ids.find(in_column(where, form.id_column, lambda: as_id_texts(cells[form.id_column])))
        read = partial(clock.read, cells[form.time_column], earliest=rule == EACH_ROW)
        time = in_column(where, form.time_column, read)
        texts = in_column(where, column, lambda: as_text(cells[column]))
        label = label_codes(texts, label_rule(positive))
        part.refuse(column, label == OTHER, lambda cell: no_label(cell) + NOT_BINARY)
        if positive:
            levels.update(levels_of(texts))
        known = (ids >= 0) & (label >= 0) & ~is_bad(time)
        return ids[known], time[known], label[known]

    needed = [form.id_column, form.time_column, column]
    timed = timed_parts(files, lambda file: read_parts(file, needed, form=form), lambda part: clock_of(part, events))
    parts = [part.use(partial(rows_of, clock=clock)) for part, clock in timed]
    ids, time, label = (np.concatenate(column) for column in zip(*parts, strict=True))
    meaning = [_meaning(column, positive, levels)] if positive else []
    order = np.lexsort((label, time, ids))
    ids, time, label = ids[order], time[order], label[order]
    if rule != "any":
        _refuse_ties(column, rule, ids, time, label, events)
    if rule == EACH_ROW:
        return LabelRows(ids, time, label, [*meaning, f"each row with a {column} is a prediction at its time"])
    if rule == "any":
        places, start = np.unique(ids, return_index=True)
        chosen = np.maximum.reduceat(label, start) if len(places) else label
    else:
        at = ids if rule == "first" else ids[::-1]
        places, first = np.unique(at, return_index=True)
        chosen = (label if rule == "first" else label[::-1])[first]
    what = {"any": "1 if any row of the stay has 1", "first": "that of its first row", "last": "that of its last row"}
    note = f"the label of a stay is {what[rule]} of {column}: {_balance(chosen)}"
    return LabelRows(places.astype(np.int32), None, chosen, [*meaning, note])


def _refuse_ties(
    column: str, rule: str, ids: NDArray[np.int32], time: NDArray[Any], label: NDArray[np.int8], events: Events
) -> None:
    """Raises InputError if a time that counts by the rule has both labels. The rows are sorted by id, time, label."""
    tied = np.flatnonzero((ids[1:] == ids[:-1]) & (time[1:] == time[:-1]) & (label[1:] != label[:-1]))
    if rule == "first":
        tied = tied[time[tied] == time[np.searchsorted(ids, ids[tied])]]
    elif rule == "last":
        tied = tied[time[tied] == time[np.searchsorted(ids, ids[tied], "right") - 1]]
    if len(tied):
        stay, at = events.ids.texts[ids[tied[0]]].as_py(), events.time.text(time[tied[0]])
        advice = "Keep one of these rows" + ", or use --label_of any" * (rule != EACH_ROW)
        raise InputError(
            f"--label_of {rule}: stay {shown(stay)} has rows with {column} 0 and with 1 at one time, {at} "
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
    rows: LabelRows, name: str, horizon: float | None, events: Occurrences, since: NDArray[Any] | None = None
) -> LabelRows:
    """1 for the samples after whose prediction time the event occurs, within `horizon` hours if that is given.

    Samples whose stay had the event before are left out: it can no longer be predicted.

    Args:
        rows: samples with prediction times.
        name: of the event, for messages.
        horizon: in hours; None: until the end of the records.
        events: when it occurred.
        since: [M] when the stay of each sample starts; None: each id is one stay.
    """
    assert rows.time is not None, "the flags were checked"
    ids, time = events.id, events.time
    unit = 60 * MICROSECONDS if time.dtype == np.int64 else 60.0
    first, end = np.searchsorted(ids, rows.id), np.searchsorted(ids, rows.id, side="right")
    latest = np.full(len(rows.id), np.inf) if horizon is None else rows.time + horizon * unit
    label, had = np.zeros(len(rows.id), np.int8), np.zeros(len(rows.id), bool)
    for at in np.flatnonzero(end > first).tolist():
        times = time[first[at] : end[at]]
        before = (times < rows.time[at]) & ~events.opens[first[at] : end[at]]
        had[at] = (before if since is None else before & (times >= since[at])).any()
        label[at] = ((times >= rows.time[at]) & (times <= latest[at])).any()
    within = "at any later time" if horizon is None else f"within {horizon:g} hours"
    notes = [
        f"the label is 1 if {name} occurs {within}, at or after the prediction time: {_balance(label[~had])}; it is 0 "
        "also where the records of a stay end before. Left out, since it had occurred before: "
        f"{counted(int(had.sum()), 'sample')}"
    ]
    return replace(rows, id=rows.id[~had], time=rows.time[~had], label=label[~had], notes=[*rows.notes, *notes])


def occurrences(name: str, events: Events) -> Occurrences:
    """When the event of this name, a variable or a level NAME=level in the tables or in the cohort, occurred.

    Raises:
        InputError: no event has this name.
    """
    codes = events.codes
    wanted = codes.named(name)
    if not codes.counts[wanted].any():
        why = "no event of the data is of this variable or level NAME=level."
        if codes.has_left_out(name):
            why = (
                "--leave_out takes this variable out. Leave it in: it is never an input, since only events before the "
                "prediction time are, and stays that had it by then are left out."
            )
        raise InputError(f"--label_event {name}: {why}")
    return events.occurrences(np.flatnonzero(wanted).tolist())


CellsOfIds = Callable[[str], tuple[pa.Array, NDArray[np.bool_]]]


def find_labels(
    arguments: Namespace, files: Sequence[Path], events: Events, rows: LabelRows | None, of_ids: CellsOfIds
) -> tuple[LabelRows | None, list[str]]:
    """(labels and prediction times by the flags, with the sentences of their rules, what is odd about --labels).

    Args:
        arguments: the flags.
        files: the tables of SRC.
        events: of the source.
        rows: prediction times by the clock of a stay, without labels; None: there are none.
        of_ids: a column -> its cell for each id [D], and which ids have a row [D].
    """
    odd: list[str] = []
    if arguments.labels:
        written = Form(encoding=events.form.encoding)
        usual = PREDICTION_TIME if PREDICTION_TIME in column_names(arguments.labels, written) else None
        time = arguments.prediction_time_column or usual
        of_columns = arguments.id_column, time, arguments.label_name
        rows = read_label_rows([arguments.labels], *of_columns, events, events.flags, arguments.label_positive, written)
        odd, rows = rows.notes, replace(rows, notes=list(rows.meaning))
        if rows.time is None and time is not None:
            odd.append(f"{arguments.labels}: no row has a time in {time}, so whole stays are used")
    if arguments.label_event:
        if rows is None or rows.time is None:
            raise InputError(f"--label_event: {arguments.labels} has no column of prediction times.")
        occurred = occurrences(arguments.label_event, events)
        rows = event_labels(rows, arguments.label_event, arguments.horizon, occurred)
    elif arguments.label_column:
        of_rows = arguments.label_column, arguments.label_of
        labels = row_labels(files, *of_rows, events, arguments.label_positive)
        rows = labels_of_samples(labels, rows, len(events.ids))
    elif arguments.label_present:
        labels = present_labels(arguments.label_present, *of_ids(arguments.label_present))
        rows = labels_of_samples(labels, rows, len(events.ids))
    return rows, odd


def labels_of_samples(labels: LabelRows, times: LabelRows | None, n_ids: int) -> LabelRows:
    """Every prediction time of an id gets the id's label."""
    if times is None:
        return labels
    of_id = np.full(n_ids, -1, dtype=np.int8)
    of_id[labels.id] = labels.label
    return replace(times, label=of_id[times.id], notes=[*times.notes, *labels.notes])
