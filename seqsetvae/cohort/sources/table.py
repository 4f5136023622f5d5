"""One long table of events, or a folder of them: a row has an id, a time, a variable and a value."""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.cohort.imported import PREDICTION_TIME
from seqsetvae.cohort.names import columns_are, quoted
from seqsetvae.cohort.sources import opened, table_flags
from seqsetvae.cohort.sources.assemble import assemble, split_positions
from seqsetvae.cohort.tables.cells import in_column
from seqsetvae.cohort.tables.codes import NON_NUMERIC, UNNAMED, EventCodes
from seqsetvae.cohort.tables.database import Database
from seqsetvae.cohort.tables.events import Columns, Events, read_events
from seqsetvae.cohort.tables.forms import COLUMN, Form, refuse_shared_ids, table_files, unread_notes
from seqsetvae.cohort.tables.label_rules import find_labels, prediction_grid
from seqsetvae.cohort.tables.read import column_names, refuse_absent, value_columns
from seqsetvae.cohort.tables.source import SourceTables, StaticColumn, StayEnd
from seqsetvae.cohort.tables.stays import Samples, make_samples, per_id
from seqsetvae.cohort.tables.times import TimeColumn, TimeFlags, comparable, is_bad
from seqsetvae.cohort.tidy import Skip, fault
from seqsetvae.system.errors import InputError, counted, named, shown

HELP = "Compile a table of events (CSV, Parquet, Excel), or a folder of tables: an event, or with --wide a time, a row."
NO_VALUES = "none"  # of --value_column
START = "start"  # of --split_by


def add_flags(parser: ArgumentParser) -> None:
    """The flags of `data.py table`."""
    parser.add_argument("src", type=Path, metavar="SRC", help="a CSV, Parquet or Excel file, or a folder of them")
    for column in ("id", "time", "variable", "value"):
        text = f"default {column}" + f"; `{NO_VALUES}`: events have no values" * (column == "value")
        parser.add_argument(f"--{column}_column", default=column, metavar="COLUMN", help=text)
    text = "column of categories, used where the value is no number (default: none)"
    parser.add_argument("--text_column", metavar="COLUMN", help=text)
    sets = "column with the number of the set (default: all events of a stay at one time are one set)"
    parser.add_argument("--set_column", metavar="COLUMN", help=sets)
    non_numeric = "rows without a number, of a variable that has numbers elsewhere: fault (default), leave_out, or "
    non_numeric += "level: a text becomes NAME=text with the value 1, and an empty value NAME=none"
    parser.add_argument("--non_numeric", choices=NON_NUMERIC, default="fault", help=non_numeric)
    table_flags.add_form_flags(parser)
    table_flags.add_time_flags(parser)
    _add_stay_flags(parser)
    table_flags.add_label_flags(parser, "--id_column", None, PREDICTION_TIME)
    table_flags.add_label_rule_flags(parser)
    table_flags.add_shared_flags(parser)


def _add_stay_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    stays = "table with one row an id, for the next flags (default: their columns are in SRC, repeated on each row)"
    add("--stays", type=Path, metavar="FILE", help=stays)
    start = "column with the time that is minute 0 of the stay (default: timestamps start with the first event, and "
    add("--start_column", metavar="COLUMN", help=start + "numbers are since the start already)")
    end = "column with the end of the stay: those that ended before their prediction time are left out, and counted"
    add("--end_column", metavar="COLUMN", help=f"{end} (default: it is not known which those are)")
    add("--subject_column", metavar="COLUMN", help="column with the patient (default: every id is a patient)")
    split = "column with the split: train, valid or test (default: patients are divided at random)"
    add("--split_column", metavar="COLUMN", help=split)
    by = "`start`: the patients with the latest starts are the test split, those before them the validation split; or "
    by += "a column such as the hospital, each of whose values is in one split"
    add("--split_by", metavar="start|COLUMN", help=by)
    static = "columns with facts such as age or sex, which become events in the first set; an empty cell is unknown"
    add("--static_columns", action="extend", nargs="+", default=[], metavar="COLUMN", help=static)


def open_source(arguments: Namespace) -> opened.Opened:
    """The tables that these flags name. Raises InputError."""
    files = table_files(arguments.src)
    notes = unread_notes(arguments.src, set(files))
    others = [path for path in (arguments.labels, arguments.stays) if path is not None and path.exists()]
    files = [
        file for file in files if not any(file.name == path.name and file.samefile(path) for path in others)
    ] or files
    refuse_shared_ids(arguments.src, files, arguments.id_from)
    return open_tables(arguments, files, notes=notes)


def open_tables(
    arguments: Namespace, files: Sequence[Path], *, read: Sequence[str] = (), notes: Sequence[str] = ()
) -> opened.Opened:
    """These files, which are those of arguments.src, or made of them. Raises InputError.

    `read` and `notes` are sentences on what they hold, and on what is odd about them.
    """
    table_flags.check_shared_flags(arguments)
    _check_flags(arguments)
    with table_flags.database_beside(arguments) as database:
        return _open(arguments, files, read, notes, database)


def _open(
    arguments: Namespace, files: Sequence[Path], read: Sequence[str], notes: Sequence[str], database: Database
) -> opened.Opened:
    written = arguments.time_unit, arguments.time_format, arguments.time_zone
    flags, codes = TimeFlags(*written, decimal=arguments.decimal), table_flags.new_codes(arguments)
    form = table_flags.form_of(arguments)
    columns = Columns(
        arguments.id_column,
        arguments.time_column,
        None if form.is_wide else arguments.variable_column,
        None if form.is_wide or arguments.value_column == NO_VALUES else arguments.value_column,
        arguments.text_column,
        arguments.set_column,
    )
    _refuse_other_columns(files[0], columns, form)
    refuse_absent(files, "--value_columns", form.value_columns, form)
    refuse_absent(files, "--fill_down", form.fill_down, form)
    unread, odd_columns = _column_notes(files[0], columns, form)
    events = read_events(files, columns, codes, flags, database, form=form)
    if columns.value and not columns.text and not codes.has_values:
        notes = [*notes, f"{arguments.src}: {columns.value} is empty in all rows, so that each event has the value 1"]
    if form.id_place != COLUMN and (n_empty := len(files) - events.n_files):
        notes = [*notes, f"{arguments.src}: {counted(n_empty, 'file')} without a row, so without a stay in the cohort"]
    facts = _Facts(arguments, files, events)
    start = facts.start()
    rows = None
    if arguments.predict_at or arguments.predict_every:
        hours = sorted(set(arguments.predict_at))
        rows = prediction_grid(start, facts.last(), hours, arguments.predict_every)
    labels, odd = find_labels(arguments, files, events, rows, facts.column)
    samples = make_samples(str(arguments.src), events, start, facts.subject(), labels)
    started, skips = _without_start(samples, f"{facts.where}, column {arguments.start_column}")
    split, how_split = facts.split(started)
    return assemble(
        arguments,
        SourceTables(
            description=f"table {arguments.src.resolve()}",
            events=events,
            samples=started,
            every_sample=samples,
            label_name=table_flags.label_name(arguments),
            own_split=split,
            how_split=how_split,
            static=[facts.static(name, codes, started) for name in dict.fromkeys(arguments.static_columns)],
            skips=skips,
            end=facts.end(started),
            read=[*read, *unread],
            rules=[] if labels is None else labels.notes,
            notes=[*odd_columns, *odd, *facts.notes(), *notes],
        ),
    )


def _refuse_other_columns(file: Path, columns: Columns, form: Form) -> None:
    """Raises InputError that says how to name the columns of ids, times, variables and values, if one is not there."""
    there = column_names(file, form)
    named = columns._asdict() if form.id_place == COLUMN else columns._replace(id=None)._asdict()  # type: ignore[arg-type]
    missing = {flag: name for flag, name in named.items() if name is not None and name not in there}
    # Reading them says what is wrong with a header of another separator or encoding.
    is_odd = len(there) == 1 or any(mark in name for name in there for mark in ";\t|\ufffd\0")
    if missing and not is_odd:
        wide = " For a table with a column a variable: --wide." * ("variable" in missing)
        flags = ", ".join(f"--{flag}_column" for flag in missing)
        raise InputError(
            f"{file}: has no column {quoted(missing.values())}. {columns_are(there)} Name it: {flags}.{wide}"
        )


_UNIT = re.compile(r"(^|[_ .-])units?($|[_ .-])|uom", re.IGNORECASE)
_ID = re.compile(
    r"(^|[_ .-])id$|(patient|person|subject|stay|visit|admission|encounter|case)(id|_?no|_?nr|_?number)$", re.IGNORECASE
)


def _column_notes(file: Path, columns: Columns, form: Form) -> tuple[list[str], list[str]]:
    """(which columns are not read; what is odd about that, or about those that are variables), in words."""
    variables = value_columns(file, form) if form.is_wide else []
    unread = [name for name in column_names(file, form) if name not in form.taken | {*columns, *variables}]
    units = [name for name in unread if _UNIT.search(name)]
    ids = [name for name in variables if name not in form.value_columns and _ID.search(name)]
    odd = []
    if units and not form.is_wide:
        odd.append(
            f"{file}: {quoted(units)} is not read, so that values of a variable in two units would be mixed: where "
            "there are several, write the unit into the name of the variable"
        )
    if ids:
        odd.append(
            f"{file}: {quoted(ids)} would be a variable: an id is no measurement. --subject_column names that of the "
            "patient, --leave_out leaves others out, --value_columns names the variables"
        )
    return [f"columns that are not read: {named([*map(shown, unread)])}"] if unread else [], odd


def _check_flags(arguments: Namespace) -> None:
    stays = arguments.stays
    if stays is not None and not stays.is_file():
        raise InputError(f"--stays {stays}: no such file.")
    if arguments.label_name and not arguments.labels:
        raise InputError(f"--label_name {arguments.label_name} names a column of --labels, which is not given.")
    table_flags.check_label_flags(arguments)
    of_label = {arguments.label_name, arguments.label_column, arguments.label_present} & {*arguments.static_columns}
    if of_label:
        raise InputError(f"--static_columns {quoted(of_label)}: the label would be known from the start; leave it out.")
    if arguments.split_column and (arguments.fractions or arguments.fold):
        raise InputError("--split_column names the splits of the data; leave out --fractions and --fold, or it.")
    if arguments.split_by and (arguments.split_column or arguments.fold):
        raise InputError("--split_by divides the patients; leave out --split_column and --fold, or it.")


class _Facts:
    """The columns that have one value for each id, in --stays or repeated in the events. Letters: D ids, N samples."""

    def __init__(self, arguments: Namespace, files: Sequence[Path], events: Events) -> None:
        self._arguments, self._events = arguments, events
        tables = [arguments.stays] if arguments.stays else list(files)
        self.where = str(tables[0] if len(tables) == 1 else arguments.src)
        named = [arguments.start_column, arguments.end_column, arguments.subject_column, arguments.split_column]
        named += [*arguments.static_columns, None if arguments.split_by == START else arguments.split_by]
        named.append(arguments.label_present)
        self._of_ids = per_id(
            tables,
            arguments.id_column,
            list(dict.fromkeys(name for name in named if name is not None)),
            events,
            [arguments.subject_column],
            facts=list(dict.fromkeys(arguments.static_columns)),
            dated=not arguments.stays,
            form=Form(encoding=events.form.encoding) if arguments.stays else events.form,
        )
        self._columns = self._of_ids.cells
        self._end = None if arguments.end_column is None else self._end_times(arguments.end_column)

    def _times(self, name: str) -> tuple[NDArray[Any], TimeColumn]:
        """(the times in a column [D], how they are written)."""
        clock = comparable(self.where, name, self._columns[name], self._events.time, self._events.flags)
        return in_column(self.where, name, lambda: clock.read(self._columns[name])), clock

    def start(self) -> NDArray[Any]:
        """[D] Minute 0 of each id; BAD_TIME or NaN where its cell is no time."""
        events = self._events
        if self._arguments.start_column is not None:
            return self._times(self._arguments.start_column)[0]
        if not events.time.is_timestamp:
            return np.zeros(len(events.ids))
        return np.where(is_bad(events.first_time), 0, events.first_time)

    def column(self, name: str) -> tuple[pa.Array, NDArray[np.bool_]]:
        """(the cell of each id [D], null where it is empty; which ids have a row [D])."""
        return self._columns[name], self._of_ids.has_row

    def end(self, samples: Samples) -> StayEnd | None:
        """When the stays of the samples end; an empty cell is unknown."""
        return None if self._end is None else StayEnd(f"column {self._arguments.end_column}", self._end[samples.id])

    def last(self) -> NDArray[Any]:
        """[D] When each stay ends, or its last event where that is unknown."""
        last = self._events.last_time
        return last if self._end is None else np.where(is_bad(self._end), last, self._end)

    def _end_times(self, name: str) -> NDArray[Any]:
        """[D] The times in --end_column. Raises InputError for a cell that is neither empty nor a time."""
        (time, clock), column = self._times(name), self._columns[name]
        wrong = np.flatnonzero(is_bad(time) & np.asarray(column.is_valid()))
        if len(wrong):
            why = clock.refused(column[int(wrong[0])].as_py())
            raise InputError(f"{self.where}, column {name}: {why} ({counted(len(wrong), 'such stay')}).")
        return time

    def subject(self) -> pa.Array | None:
        """[D] The patient of each id; None: every id is one. Raises InputError if one has none."""
        name = self._arguments.subject_column
        if name is None:
            return None
        column = self._columns[name]
        if column.null_count:
            first = self._events.ids.texts[int(np.flatnonzero(column.is_null())[0])].as_py()
            raise InputError(
                f"{self.where}, column {name}: {column.null_count:,} ids have no patient, such as {first}."
            )
        return column

    def split(self, samples: Samples) -> tuple[NDArray[np.int8] | None, str]:
        """(the split of each sample [N], how it was chosen); None: they are divided at random."""
        name, by = self._arguments.split_column, self._arguments.split_by
        fractions, where = opened.choose_fractions(self._arguments.fractions, ()), f"{self.where}, column {name or by}"
        shown = " ".join(f"{share:g}" for share in fractions)
        if name is not None:
            return split_positions(where, self._columns[name])[samples.id], "the data's own"
        if by == START:
            if samples.start.dtype != np.int64:
                raise InputError(f"--split_by {START} needs timestamps; these times are {self._events.time.described}.")
            return opened.assign_by_time(
                samples.subject, samples.start, fractions
            ), f"by time, the latest last, {shown}"
        if by is None:
            return None, ""
        column = self._columns[by]
        if column.null_count:
            raise InputError(f"{where}: {column.null_count:,} ids have none. --split_by needs one for each.")
        group = column.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)[samples.id]
        if (patients := self.subject()) is not None:
            opened.refuse_shared_subjects(
                where, samples.subject, group, patients.take(samples.id), column.take(samples.id)
            )
        how = f"whole values of {by}, {shown}, seed {self._arguments.seed}"
        return opened.assign_groups(group, fractions, self._arguments.seed), how

    def static(self, name: str, codes: EventCodes, samples: Samples) -> StaticColumn:
        """A column as facts of the samples."""
        column = self._columns[name]
        known = np.flatnonzero(column.is_valid())
        code, value = np.full(len(column), UNNAMED, dtype=np.int32), np.full(len(column), np.nan)
        names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(known), np.int32)), pa.array([name]))
        code[known], value[known] = codes.encode(names, column.take(pa.array(known)))
        return StaticColumn(name, code[samples.id], value[samples.id], self._of_ids.later.get(name))

    def notes(self) -> list[str]:
        """Facts that are filled in later, in words."""
        columns = self._of_ids.later.items()
        later = ", ".join(f"{name!r} ({counted(len(of.id), 'stay')})" for name, of in columns if len(of.id))
        what = "facts whose first value is on a later row of the stay, known from the time of that row"
        return [f"{what}: {later}"] if later else []


def _without_start(samples: Samples, where: str) -> tuple[Samples, list[Skip]]:
    """The samples that have a start, and faults for the others."""
    bad = is_bad(samples.start)
    category = "a start that is missing or cannot be read"
    reason = f"{where}: the start is missing or not a time"
    skips = [fault(stay, category, reason) for stay in samples.stays()[bad]]
    return (samples.take(~bad), skips) if skips else (samples, [])
