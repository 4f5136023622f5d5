"""The flags of `data.py table` that say how its tables are written."""

from argparse import ArgumentParser, Namespace

from seqsetvae.cohort.names import quoted
from seqsetvae.cohort.tables.events import Wide
from seqsetvae.cohort.tables.forms import COLUMN, ID_PLACES, SEPARATORS, Form
from seqsetvae.errors import InputError


def add_form_flags(parser: ArgumentParser) -> None:
    """How the rows and cells of SRC are written."""
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


def form_of(arguments: Namespace) -> Form:
    """How the tables are written, by these flags. Raises InputError for flags that contradict each other."""
    if arguments.value_columns and not arguments.wide:
        raise InputError("--value_columns names variables of --wide, which is not given.")
    if arguments.wide and arguments.text_column:
        raise InputError("--text_column has no meaning with --wide, whose cells may be numbers or texts.")
    if arguments.wide and (arguments.variable_column, arguments.value_column) != ("variable", "value"):
        raise InputError("--variable_column and --value_column have no meaning with --wide; see --value_columns.")
    names = tuple(name.strip() for name in arguments.columns.split(",")) if arguments.columns else ()
    if len(set(names)) < len(names) or "" in names:
        raise InputError(f"--columns {arguments.columns}: a name is empty or occurs twice.")
    return Form(
        separator=SEPARATORS.get(arguments.separator),
        names=names,
        id_column=arguments.id_column,
        id_place=arguments.id_from,
        time_column=arguments.time_column,
        clock_column=arguments.clock_column,
        fill_down=tuple(arguments.fill_down),
    )


def wide_of(arguments: Namespace) -> Wide | None:
    """Which columns are variables; None: a row is one event."""
    if not arguments.wide:
        return None
    flags = ("id", "time", "clock", "set", "start", "end", "subject", "split", "label")
    named = {getattr(arguments, f"{flag}_column", None) for flag in flags} | {
        arguments.label_present,
        arguments.split_by,
    }
    taken = {*named, *arguments.static_columns} - {None}
    twice = [name for name in arguments.value_columns if name in taken]
    if twice:
        raise InputError(f"--value_columns {quoted(twice)}: another flag gives this column another meaning. Keep one.")
    return Wide(tuple(dict.fromkeys(arguments.value_columns)), taken)
