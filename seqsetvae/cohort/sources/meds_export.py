"""MEDS data sets that `data.py export` wrote: columns beyond the standard hold what its own columns cannot.

Every stay is a subject there, on a clock of its own. Letters: D ids, M rows of labels.
"""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsetvae.cohort.exports.meds import ADMISSION, ETL
from seqsetvae.cohort.sources.assemble import assemble
from seqsetvae.cohort.sources.meds_files import (
    CODE,
    PREDICTION_TIME,
    SUBJECT,
    data_files,
    described,
    description,
    own_split,
    task_name,
)
from seqsetvae.cohort.sources.opened import Opened
from seqsetvae.cohort.sources.table_flags import database_beside, new_codes
from seqsetvae.cohort.tables.database import Database
from seqsetvae.cohort.tables.events import Columns, read_events
from seqsetvae.cohort.tables.forms import table_files
from seqsetvae.cohort.tables.label_rules import LabelRows, read_label_rows
from seqsetvae.cohort.tables.source import Found
from seqsetvae.cohort.tables.stays import make_samples, per_id
from seqsetvae.cohort.tables.times import MICROSECONDS, TimeFlags

COLUMNS = Columns(SUBJECT, "minute", CODE, "value", None, "set_index")
PATIENT = "patient_id"


def is_export(src: Path) -> bool:
    """Whether `data.py export` wrote the data set."""
    return description(src).get("etl_name") == ETL


def open_export(arguments: Namespace) -> Opened:
    """The cohort that was exported, to the last bit of every event. Raises InputError."""
    arguments.non_numeric = "fault"
    with database_beside(arguments) as database:
        return _open(arguments, database)


def _open(arguments: Namespace, database: Database) -> Opened:
    src, codes = arguments.src, new_codes(arguments)
    files = data_files(src)
    events = read_events(files, COLUMNS, codes, TimeFlags(), database, untimed=True)
    labels = None
    if arguments.labels:
        flags = TimeFlags(origin=int(ADMISSION.astype(np.int64)))
        tables = table_files(arguments.labels)
        labels = read_label_rows(tables, SUBJECT, PREDICTION_TIME, arguments.label_name, events, flags)
        last = f"max(time) FILTER ({events.is_timed}) AS last"
        of_ids = database.ask(f"SELECT {last} FROM events JOIN ids USING (id) GROUP BY place ORDER BY place")["last"]
        labels = _every_stay(labels, pc.fill_null(of_ids, -np.inf).to_numpy(), len(events.ids))
    patient = per_id(files, SUBJECT, [PATIENT], events, [PATIENT]).cells[PATIENT]
    samples = make_samples(str(src), events, np.zeros(len(events.ids)), patient, labels)
    return assemble(
        arguments,
        Found(
            description=described(src),
            columns=COLUMNS,
            events=events,
            samples=samples,
            every_sample=samples,
            label_name=task_name(arguments),
            own_split=own_split(arguments, files, events, samples),
            notes=labels.notes if labels else (),
        ),
    )


def _every_stay(labels: LabelRows, last: NDArray[np.float64], n_ids: int) -> LabelRows:
    """The labels with a row for stays that have none, and without the prediction times that stand for whole stays."""
    assert labels.time is not None
    # The export gives a whole stay the time that is a microsecond after its last event.
    whole = np.rint(labels.time * MICROSECONDS) == np.rint(last[labels.id] * MICROSECONDS) + 1
    others = np.setdiff1d(np.arange(n_ids, dtype=np.int32), labels.id)
    return replace(
        labels,
        id=np.append(labels.id, others),
        time=np.append(np.where(whole, np.nan, labels.time), np.full(len(others), np.nan)),
        label=np.append(labels.label, np.full(len(others), -1, dtype=np.int8)),
    )
