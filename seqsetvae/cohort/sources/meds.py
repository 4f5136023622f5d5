"""A data set in the Medical Event Data Standard (MEDS 0.4): data/**/*.parquet, metadata/, and a table of labels."""

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsetvae.cohort.export import ADMISSION, ETL
from seqsetvae.cohort.imported import NO_LABEL
from seqsetvae.cohort.sources import meds_data as data
from seqsetvae.cohort.sources import table_flags
from seqsetvae.cohort.sources.assemble import assemble
from seqsetvae.cohort.sources.opened import Opened
from seqsetvae.cohort.tables.database import Database
from seqsetvae.cohort.tables.events import Columns, Events, read_events
from seqsetvae.cohort.tables.forms import table_files, unread_notes
from seqsetvae.cohort.tables.label_rules import LabelRows, read_label_rows
from seqsetvae.cohort.tables.source import SourceTables
from seqsetvae.cohort.tables.stays import make_samples, per_id
from seqsetvae.cohort.tables.times import MICROSECONDS, TimeFlags, is_bad
from seqsetvae.system.errors import InputError

HELP = "Compile a MEDS 0.4 data set (data/**/*.parquet, metadata/), with --labels in the label schema of MEDS."
EXPORTED, PATIENT = Columns(data.SUBJECT, "minute", data.CODE, "value", None, "set_index"), "patient_id"
OUTCOME_CODES = ("MEDS_DEATH", "MEDS_DEATH//*", "HOSPITAL_DISCHARGE", "HOSPITAL_DISCHARGE//*")


def add_flags(parser: ArgumentParser) -> None:
    """The flags of `data.py meds`."""
    parser.add_argument("src", type=Path, metavar="SRC", help="folder with data/ and metadata/")
    table_flags.add_label_flags(parser, data.SUBJECT, data.LABEL, data.PREDICTION_TIME)
    task = "what the label means, for the cohort and its checkpoints (default: the name of --labels)"
    parser.add_argument("--task", metavar="NAME", help=task)
    table_flags.add_code_rule_flags(parser)
    parser.set_defaults(label_name=None)  # LABEL, unless a rule makes the labels
    start = "each sample starts at the last event with this code before its prediction time, such as "
    start += "'HOSPITAL_ADMISSION*'; earlier events are left out (default: the whole record before that time)"
    parser.add_argument("--start_code", metavar="CODE", help=start)
    end = "a sample is left out, and counted, if an event with this code lies between its start and its prediction "
    end += "time, such as MEDS_DEATH, or with --start_code 'HOSPITAL_DISCHARGE*' (default: it is not known which ended)"
    parser.add_argument("--end_code", metavar="CODE", help=end)
    text = f"read {data.TEXT}: a text becomes CODE=text with the value 1 (default: it is not read)"
    parser.add_argument("--text_values", action="store_true", help=text)
    value = f"column of numbers (default {data.NUMBER}; `{data.NO_VALUES}`: events have no values)"
    parser.add_argument("--value_column", metavar="COLUMN", help=value)
    table_flags.add_shared_flags(parser)


def open_source(arguments: Namespace) -> Opened:
    """The data set that these flags name. Raises InputError."""
    table_flags.check_shared_flags(arguments)
    rules = _settle_label(arguments)
    is_export = data.description(arguments.src).get("etl_name") == ETL
    if is_export:
        given = [*rules, *(flag for flag in (data.START, data.END) if getattr(arguments, flag) is not None)]
        if given:
            raise InputError(f"--{given[0]}: {arguments.src} was exported stay by stay, by data.py. Leave it out.")
    arguments.non_numeric = "fault" if is_export else "level"  # a missing numeric_value is usual in MEDS
    with table_flags.database_beside(arguments) as database:
        return (_open_export if is_export else _open)(arguments, database)


def _open(arguments: Namespace, database: Database) -> Opened:
    src, flags = arguments.src, TimeFlags()
    files = data.data_files(src)
    codes = table_flags.new_codes(
        arguments, (*OUTCOME_CODES, *([arguments.label_present] if arguments.label_present else []))
    )
    columns = Columns(
        data.SUBJECT,
        data.TIME,
        data.CODE,
        data.value_column(arguments, files),
        data.TEXT if arguments.text_values else None,
    )
    optional = [data.NUMBER] * (arguments.value_column is None) + [data.TEXT] * arguments.text_values
    events = read_events(files, columns, codes, flags, database, optional=optional, untimed=True, no_event=data.BIRTH)
    marks, facts = data.Marks(events, arguments), data.fact_notes(src, events)
    data.refuse_unread_values(arguments, files, codes)
    rows = _label_rows(arguments, events, flags) if arguments.labels else None
    odd = [] if rows is None else rows.notes
    labels = marks.labels(None if rows is None else replace(rows, notes=[]))
    start = np.where(is_bad(events.first_time), 0, events.first_time)
    samples = make_samples(str(src), events, start, None, labels)
    started, skips = marks.with_starts(samples)
    return assemble(
        arguments,
        SourceTables(
            description=data.description_of(src),
            events=events,
            samples=started,
            every_sample=samples,
            label_name=_task_name(arguments),
            own_split=data.own_split(arguments, files, events, started),
            static=marks.age(started),
            static_rows=True,
            from_start=arguments.start_code is not None,
            skips=skips,
            end=marks.end(started),
            rules=[] if labels is None else labels.notes,
            notes=[
                *odd,
                *facts,
                *data.split_notes(arguments, files),
                *data.unlisted_codes(src, codes.seen),
                *unread_notes(src / "data", set(files), ".parquet"),
                *(unread_notes(arguments.labels, set(table_files(arguments.labels))) if arguments.labels else []),
            ],
        ),
    )


def _settle_label(arguments: Namespace) -> list[str]:
    """The flags of label rules that are given; `label_name` becomes the column of --labels, or None."""
    rules = [flag for flag in (*table_flags.RULES, "predict_at", "predict_every") if getattr(arguments, flag)]
    if arguments.label_name == NO_LABEL:
        arguments.label_name = None
    elif arguments.label_name is None and arguments.labels and not rules:
        arguments.label_name = data.LABEL
    table_flags.check_label_flags(arguments)
    return rules


def _label_rows(arguments: Namespace, events: Events, flags: TimeFlags) -> LabelRows:
    """The rows of --labels. Raises InputError for labels without prediction times."""
    time = arguments.prediction_time_column or data.PREDICTION_TIME
    rows = read_label_rows(table_files(arguments.labels), data.SUBJECT, time, arguments.label_name, events, flags)
    if rows.time is None:
        raise InputError(f"{arguments.labels}: no row has a {time}. Labels of MEDS need one each.")
    return rows


def _task_name(arguments: Namespace) -> str | None:
    """What the label is called; None without labels, or with prediction times alone."""
    labels: Path | None = arguments.labels
    if labels is None or arguments.label_name is None:
        rule = arguments.label_event or arguments.label_present
        return (arguments.task or rule) if rule else None
    return arguments.task or (labels.stem if labels.is_file() else labels.name)


def _open_export(arguments: Namespace, database: Database) -> Opened:
    """What `data.py export` wrote: every stay is a subject on a clock of its own, with columns beyond the standard.

    They hold what its own columns cannot, so that events come back to the last bit.
    """
    src, files, codes = arguments.src, data.data_files(arguments.src), table_flags.new_codes(arguments)
    events = read_events(files, EXPORTED, codes, TimeFlags(), database, untimed=True)
    labels = None
    if arguments.labels:
        labels = _label_rows(arguments, events, TimeFlags(origin=int(ADMISSION.astype(np.int64))))
        last = f"max(time) FILTER ({events.is_timed}) AS last"
        of_ids = database.query(f"SELECT {last} FROM events JOIN ids USING (id) GROUP BY place ORDER BY place")["last"]
        labels = _every_stay(labels, pc.fill_null(of_ids, -np.inf).to_numpy(), len(events.ids))
    patient = per_id(files, data.SUBJECT, [PATIENT], events, [PATIENT]).cells[PATIENT]
    samples = make_samples(str(src), events, np.zeros(len(events.ids)), patient, labels)
    return assemble(
        arguments,
        SourceTables(
            description=data.description_of(src),
            events=events,
            samples=samples,
            every_sample=samples,
            label_name=_task_name(arguments),
            own_split=data.own_split(arguments, files, events, samples),
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
