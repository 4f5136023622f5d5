"""Labels and prediction times of `data.py table`: from a table of labels, or made of the data by a rule."""

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from seqsetvae.cohort.imported import PREDICTION_TIME
from seqsetvae.cohort.tables.events import Events
from seqsetvae.cohort.tables.forms import Form
from seqsetvae.cohort.tables.label_rules import (
    EACH_ROW,
    LABELS_OF,
    RowLabels,
    event_labels,
    occurrences,
    present_labels,
    row_labels,
)
from seqsetvae.cohort.tables.stay_table import LabelRows, find_time_column, read_label_rows
from seqsetvae.cohort.tables.times import TimeFlags
from seqsetvae.errors import InputError

RULES = ("label_column", "label_event", "label_present")  # flags that make labels, instead of --label_name


def add_label_rule_flags(parser: ArgumentParser) -> None:
    """Labels that are made of the data, and prediction times by the clock of a stay."""
    add = parser.add_argument
    _add_event_flags(parser, "this variable, or level NAME=level,", "NAME")
    column = "column of SRC with a label (0 or 1) on each row, of which --label_of makes that of the stay"
    add("--label_column", metavar="COLUMN", help=column)
    of = "any: 1 if a row has 1; first, last: that of this row; each_row: each row is a prediction at its time"
    add("--label_of", choices=LABELS_OF, default="any", help=f"{of} (default %(default)s)")
    present = "the label is 1 if this column of --stays (or of SRC) is not empty, such as the time of death"
    add("--label_present", metavar="COLUMN", help=present)


def add_code_rule_flags(parser: ArgumentParser) -> None:
    """The same of events that have codes: no row has a label, and no stay a column."""
    _add_event_flags(parser, "an event with this code, such as MEDS_DEATH or 'ICU_ADMISSION*',", "CODE")
    present = "the label is 1 if the subject has an event with this code, at any time; it is no input"
    parser.add_argument("--label_present", metavar="CODE", help=present)
    parser.set_defaults(label_column=None, label_of="any")


def _add_event_flags(parser: ArgumentParser, what: str, metavar: str) -> None:
    add = parser.add_argument
    event = f"the label is 1 if {what} occurs after the prediction time (--predict_at, "
    add("--label_event", metavar=metavar, help=event + "--predict_every, or times in --labels)")
    horizon = "hours after the prediction time in which --label_event counts (default: all that follow)"
    add("--horizon", type=float, metavar="HOURS", help=horizon)
    at = "predict at these hours of each stay, from earlier events alone; a stay that has ended by then is left out"
    add("--predict_at", action="extend", nargs="+", type=float, default=[], metavar="HOUR", help=at)
    add("--predict_every", type=float, metavar="HOURS", help="predict every so many hours of each stay, until it ends")


def check_label_flags(arguments: Namespace) -> None:
    """Raises InputError for flags that contradict each other or lack another one."""
    given = [f"--{flag}" for flag in RULES if getattr(arguments, flag)]
    if arguments.label_name and arguments.labels:
        given.append("--label_name")
    clocks = [f"--{flag}" for flag in ("predict_at", "predict_every", "until_hour") if getattr(arguments, flag)]
    times = "--prediction_time_column" if arguments.prediction_time_column else "times in --labels"
    each_row = arguments.label_column and arguments.label_of == EACH_ROW
    hours = [*arguments.predict_at, *(h for h in (arguments.predict_every, arguments.horizon) if h is not None)]
    rules = [
        (len(given) > 1, f"{' and '.join(given)}: each gives the label; keep one of them."),
        (len(clocks) > 1, f"{' and '.join(clocks)}: give one of them."),
        (each_row and clocks, f"--label_of {EACH_ROW}: each row is a prediction time already; leave out {clocks[:1]}."),
        (
            arguments.label_event and not arguments.labels and clocks in ([], ["--until_hour"]),
            f"--label_event needs prediction times: --predict_at, --predict_every, or {times}.",
        ),
        (
            arguments.horizon is not None and not arguments.label_event,
            "--horizon is of --label_event, which is not given.",
        ),
        (
            arguments.label_of != "any" and not arguments.label_column,
            "--label_of is of --label_column, which is not given.",
        ),
        (
            arguments.labels and clocks[:1] not in ([], ["--until_hour"]),
            f"{clocks[:1]} and --labels: give one of them.",
        ),
        (not all(0 < hour < math.inf for hour in hours), f"hours must be numbers above 0; received {hours}."),
    ]
    for wrong, problem in rules:
        if wrong:
            raise InputError(problem.replace("['", "").replace("']", ""))


def label_name(arguments: Namespace) -> str | None:
    """What the labels mean, for the manifest."""
    return arguments.label_name or next((name for flag in RULES if (name := getattr(arguments, flag))), None)


def find_labels(
    arguments: Namespace,
    files: Sequence[Path],
    events: Events,
    form: Form,
    flags: TimeFlags,
    rows: LabelRows | None,
    of_ids: Callable[[str], tuple[pa.Array, np.ndarray]],
) -> tuple[LabelRows | None, list[str]]:
    """(labels and prediction times by the flags, with the sentences of their rules, what is odd about --labels).

    Args:
        arguments: the flags.
        files: the tables of SRC.
        events: of the source.
        form: how the tables are written.
        flags: how times are written.
        rows: prediction times by the clock of a stay, without labels; None: there are none.
        of_ids: a column -> its cell for each id [D], and which ids have a row [D].
    """
    odd: list[str] = []
    if arguments.labels:
        time = find_time_column(arguments.labels, arguments.prediction_time_column, PREDICTION_TIME)
        rows = read_label_rows([arguments.labels], arguments.id_column, time, arguments.label_name, events, flags)
        odd, rows = rows.notes, replace(rows, notes=[])
        if rows.time is None and time is not None:
            odd.append(f"{arguments.labels}: no row has a time in {time}, so whole stays are used")
    if arguments.label_event:
        if rows is None or rows.time is None:
            raise InputError(f"--label_event: {arguments.labels} has no column of prediction times.")
        found = occurrences(arguments.label_event, events, events.codes)
        rows = event_labels(rows, arguments.label_event, arguments.horizon, found)
    elif arguments.label_column:
        how = RowLabels(arguments.label_column, arguments.label_of, form.id_column, form.time_column)
        rows = of_samples(row_labels(files, how, events, form, flags), rows, len(events.ids))
    elif arguments.label_present:
        labels = present_labels(arguments.label_present, *of_ids(arguments.label_present))
        rows = of_samples(labels, rows, len(events.ids))
    return rows, odd


def of_samples(labels: LabelRows, times: LabelRows | None, n_ids: int) -> LabelRows:
    """Every prediction time of an id gets the id's label."""
    if times is None:
        return labels
    of_id = np.full(n_ids, -1, dtype=np.int8)
    of_id[labels.id] = labels.label
    return replace(times, label=of_id[times.id], notes=[*times.notes, *labels.notes])
