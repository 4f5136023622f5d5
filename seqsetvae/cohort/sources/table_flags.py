"""The flags that tables of events (`table`, `meds`, `omop`) share, those of how tables are written, and of labels."""

import codecs
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path

from seqsetvae.cohort.names import quoted
from seqsetvae.cohort.sidefiles import read_variable_map
from seqsetvae.cohort.sources.opened import choose_fractions, read_fold
from seqsetvae.cohort.tables.cells import DECIMALS
from seqsetvae.cohort.tables.codes import EventCodes
from seqsetvae.cohort.tables.database import Database, open_database
from seqsetvae.cohort.tables.forms import COLUMN, ID_PLACES, SEPARATORS, USUAL, Form
from seqsetvae.cohort.tables.label_rules import EACH_ROW, LABELS_OF
from seqsetvae.cohort.tables.times import DURATION, MINUTES
from seqsetvae.cohort.tidy import SPLITS
from seqsetvae.system.errors import InputError


def add_time_flags(parser: ArgumentParser) -> None:
    """Flags of how times are written."""
    unit = "of times that are numbers since the start of the stay (default %(default)s); duration: times such as "
    unit += "26:30, 26:30:15 or 1 days 02:30:00"
    parser.add_argument("--time_unit", choices=(*MINUTES, DURATION), default="minutes", help=unit)
    form = "of timestamps, such as '%%d/%%m/%%Y %%H:%%M' (default: ISO 8601, as 2020-01-31 12:30+01:00)"
    parser.add_argument("--time_format", metavar="FORMAT", help=form)
    zone = "where timestamps without a zone were recorded, such as Europe/Berlin (default: one clock that never "
    zone += "changes between summer and winter)"
    parser.add_argument("--time_zone", metavar="ZONE", help=zone)


def add_label_flags(parser: ArgumentParser, id_column: str, label_name: str | None, time_column: str) -> None:
    """Flags of the table of labels and its columns."""
    labels = f"CSV or Parquet with the columns {id_column} and --label_name, one row a stay, or several with a "
    labels += f"column {time_column}: only earlier events are used (default: no labels)"
    parser.add_argument("--labels", type=Path, metavar="FILE", help=labels)
    name = "column to predict: 0 or 1, false or true, empty = unknown"
    none = "none = prediction times alone, for labels that --task of train_optimized.py reads"
    name += f" (default {label_name}; {none})" if label_name else " (default: no stay has a label)"
    parser.add_argument("--label_name", default=label_name, metavar="COLUMN", help=name)
    time = f"column of prediction times (default: {time_column}, if --labels has it)"
    parser.add_argument("--prediction_time_column", metavar="COLUMN", help=time)


def add_shared_flags(parser: ArgumentParser) -> None:
    """Flags of variables, windows and splits."""
    window = "leave out events from hour H of each stay on, so that the outcome is predicted at that time"
    parser.add_argument("--until_hour", type=float, metavar="H", help=window)
    decimal = "the mark of the decimals in numbers that are texts: 85.5 or 85,5 (default %(default)s)"
    parser.add_argument("--decimal", choices=DECIMALS, default=".", help=decimal)
    mapping = "columns name, target and perhaps factor, offset: `name` becomes `target`, value * factor + offset"
    parser.add_argument("--variable_map", type=Path, metavar="CSV", help=mapping)
    out = "variables, or levels NAME=level, to leave out, such as those that state the outcome, by their names here or "
    out += "those of --variable_map; * stands for any characters"
    parser.add_argument("--leave_out", action="extend", nargs="+", default=[], metavar="NAME", help=out)
    categorical = "variables whose numbers, and texts like numbers, are categories: 3 becomes NAME=3 with the value 1"
    parser.add_argument("--categorical", action="extend", nargs="+", default=[], metavar="NAME", help=categorical)
    shares = "share of the patients in each split (default 0.7 0.15 0.15); the share of positives is the same in each"
    names = tuple(split.upper() for split in SPLITS)
    parser.add_argument("--fractions", nargs=3, type=float, metavar=names, help=shares)
    fold = "instead: fold I of K is the test split, the next one the validation split, all others train"
    parser.add_argument("--fold", metavar="I/K", help=fold)
    parser.add_argument("--seed", type=int, default=0, help="of that division (default %(default)s)")


def check_shared_flags(arguments: Namespace) -> None:
    """Raises InputError for flags that contradict each other, values out of range and files that do not exist."""
    until = arguments.until_hour
    if until is not None and not 0 < until < math.inf:
        raise InputError(f"--until_hour {until:g}: allowed: a number above 0")
    if arguments.fold and arguments.fractions:
        raise InputError("--fold and --fractions: give one of them.")
    if arguments.prediction_time_column and not arguments.labels:
        raise InputError("--prediction_time_column names a column of --labels, which is not given.")
    read_fold(arguments.fold)
    choose_fractions(arguments.fractions, ())
    for flag, usable in {"labels": Path.exists, "variable_map": Path.is_file}.items():
        path = getattr(arguments, flag)
        if path is not None and not usable(path):
            raise InputError(f"--{flag} {path}: no such file.")


def new_codes(arguments: Namespace, leave_out: Collection[str] = ()) -> EventCodes:
    """The numbering of variables that these flags ask for; `leave_out` are patterns that the source adds."""
    mapping = read_variable_map(arguments.variable_map)
    return EventCodes(mapping, arguments.categorical, (*arguments.leave_out, *leave_out), arguments.decimal)


def database_beside(arguments: Namespace) -> AbstractContextManager[Database]:
    """Where events are sorted: in the nearest folder above OUT that exists."""
    return open_database(spool_folder(arguments.out), getattr(arguments, "jobs", None))


def spool_folder(out: Path) -> Path:
    """The nearest folder above OUT that exists."""
    return next(parent for parent in out.absolute().parents if parent.is_dir())


def add_form_flags(parser: ArgumentParser) -> None:
    """Flags of how the rows and cells of SRC are written."""
    add = parser.add_argument
    wide = "SRC has a column a variable: each cell that is not empty is an event of the variable that the column names"
    add("--wide", action="store_true", help=wide)
    values = "the columns of --wide that are variables (default: all that no other flag names)"
    add("--value_columns", action="extend", nargs="+", default=[], metavar="COLUMN", help=values)
    place = "where the id of a row is: in --id_column, or in the name of its file, or of its folder (id=101 is 101)"
    add("--id_from", choices=ID_PLACES, default=COLUMN, help=f"{place}; default %(default)s")
    clock = "column with the time of day, where --time_column has the date alone (default: none)"
    add("--clock_column", metavar="COLUMN", help=clock)
    fill = "columns whose empty cells mean the cell above, such as an id on the first row of a block alone"
    add("--fill_down", action="extend", nargs="+", default=[], metavar="COLUMN", help=fill)
    names = "the names of the columns, with commas between them, for files without a header: id,time,variable,value"
    add("--columns", metavar="A,B,C", help=names)
    mark = "between the cells of text files (default: tabs in .tsv, pipes in .psv, or else the one in the header)"
    add("--separator", choices=SEPARATORS, help=mark)
    encoding = "of the text files of SRC, --stays and --labels: cp1252, latin-1, utf-16, ... (default %(default)s)"
    add("--encoding", default=USUAL.encoding, metavar="NAME", help=encoding)


def form_of(arguments: Namespace) -> Form:
    """How the tables are written, by these flags. Raises InputError for flags that contradict each other."""
    if arguments.value_columns and not arguments.wide:
        raise InputError("--value_columns names variables of --wide, which is not given.")
    if arguments.wide and arguments.text_column:
        raise InputError("--text_column has no meaning with --wide, whose cells may be numbers or texts.")
    if arguments.wide and (arguments.variable_column, arguments.value_column) != ("variable", "value"):
        raise InputError("--variable_column and --value_column have no meaning with --wide; see --value_columns.")
    try:
        "".encode(arguments.encoding)
    except LookupError:
        raise InputError(f"--encoding {arguments.encoding}: Python knows no such encoding; cp1252 is one.") from None
    names = tuple(name.strip() for name in arguments.columns.split(",")) if arguments.columns else ()
    if len(set(names)) < len(names) or "" in names:
        raise InputError(f"--columns {arguments.columns}: a name is empty or occurs twice.")
    flags = ("id", "time", "clock", "set", "start", "end", "subject", "split", "label")
    taken = {getattr(arguments, f"{flag}_column", None) for flag in flags}
    taken |= {arguments.label_present, arguments.split_by, *arguments.static_columns}
    taken |= {arguments.label_name} - {*arguments.value_columns}
    if twice := [name for name in arguments.value_columns if name in taken]:
        raise InputError(f"--value_columns {quoted(twice)}: another flag gives this column another meaning. Keep one.")
    return Form(
        encoding=codecs.lookup(arguments.encoding).name,
        separator=SEPARATORS.get(arguments.separator),
        names=names,
        id_column=arguments.id_column,
        id_place=arguments.id_from,
        time_column=arguments.time_column,
        clock_column=arguments.clock_column,
        fill_down=tuple(arguments.fill_down),
        is_wide=arguments.wide,
        value_columns=tuple(dict.fromkeys(arguments.value_columns)),
        taken=frozenset(taken),
    )


RULES = ("label_column", "label_event", "label_present")  # flags that make labels, instead of --label_name


def add_label_rule_flags(parser: ArgumentParser) -> None:
    """Flags of labels that are made from the data, and of prediction times by the clock of a stay."""
    add = parser.add_argument
    _add_event_flags(parser, "this variable, or level NAME=level,", "NAME")
    column = "column of SRC with a label (0 or 1) on each row, of which --label_of makes that of the stay"
    add("--label_column", metavar="COLUMN", help=column)
    of = "any: 1 if a row has 1; first, last: that of this row; each_row: each row is a prediction at its time"
    add("--label_of", choices=LABELS_OF, default="any", help=f"{of} (default %(default)s)")
    positive = "values of --label_name or --label_column that mean 1, such as Expired; all others that are not empty "
    add("--label_positive", nargs="+", default=[], metavar="VALUE", help=positive + "mean 0")
    present = "the label is 1 if this column of --stays (or of SRC) is not empty, such as the time of death"
    add("--label_present", metavar="COLUMN", help=present)


def add_code_rule_flags(parser: ArgumentParser) -> None:
    """Flags of label rules for events that have codes, where no row has a label and no stay a column."""
    _add_event_flags(parser, "an event with this code, such as MEDS_DEATH or 'ICU_ADMISSION*',", "CODE")
    present = "the label is 1 if the subject has an event with this code, at any time; it is no input"
    parser.add_argument("--label_present", metavar="CODE", help=present)
    parser.set_defaults(label_column=None, label_of="any", label_positive=[])


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
    is_grid = clocks not in ([], ["--until_hour"])
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)}: each gives the label; keep one of them.")
    if len(clocks) > 1:
        raise InputError(f"{' and '.join(clocks)}: give one of them.")
    if each_row and clocks:
        raise InputError(f"--label_of {EACH_ROW}: each row is a prediction time already; leave out {clocks[0]}.")
    if arguments.label_event and not arguments.labels and not is_grid:
        raise InputError(f"--label_event needs prediction times: --predict_at, --predict_every, or {times}.")
    if arguments.horizon is not None and not arguments.label_event:
        raise InputError("--horizon is of --label_event, which is not given.")
    if arguments.label_of != "any" and not arguments.label_column:
        raise InputError("--label_of is of --label_column, which is not given.")
    if arguments.label_positive and not (arguments.label_name or arguments.label_column):
        raise InputError("--label_positive is of --label_name or --label_column, of which none is given.")
    if arguments.labels and is_grid:
        raise InputError(f"{clocks[0]} and --labels: give one of them.")
    if not all(0 < hour < math.inf for hour in hours):
        raise InputError(f"hours must be numbers above 0; received {hours}.")


def label_name(arguments: Namespace) -> str | None:
    """What the labels mean, for the manifest."""
    return arguments.label_name or next((name for flag in RULES if (name := getattr(arguments, flag))), None)
