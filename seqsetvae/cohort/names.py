"""Texts of cells: names of variables, levels and columns, ids, empty cells, and faults."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from seqsetvae.system.errors import InputError

_INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"  # hyphens and joiners without width, marks of direction
SURROUNDING = (  # all spaces of Unicode, and what cannot be seen
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    f"\u2028\u2029\u202f\u205f\u3000{_INVISIBLE}"
)
SHOWN = 20  # columns in a message
_NAMELESS = re.compile(r"(unnamed: ?\d+(_level_\d+)?|__index_level_\d+__)?", re.IGNORECASE)


def trimmed(text: str) -> str:
    """The text without spaces and invisible characters around it."""
    return text.strip(SURROUNDING)


def groups_alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of different names that are equal without case, Unicode form, spaces around and invisible characters."""
    groups: dict[str, list[str]] = {}
    for name in names:
        visible = unicodedata.normalize("NFKC", name).translate(dict.fromkeys(map(ord, _INVISIBLE)))
        folded = unicodedata.normalize("NFKC", " ".join(visible.split()).casefold())
        groups.setdefault(folded, []).append(name)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def quoted(names: Iterable[str]) -> str:
    """Names of columns as messages list them: with quotes where there are spaces or commas in one."""
    return ", ".join(repr(name) if not name or re.search(r"[\s,]", name) else name for name in names)


def columns_are(names: Iterable[str]) -> str:
    """The columns of a table, for a message about one that it lacks."""
    names = list(names)
    more = ", ..." if len(names) > SHOWN else ""
    return f"Its columns are: {quoted(names[:SHOWN]) or 'none'}{more}."


def refuse_nameless(where: str | Path, header: Sequence[str], advice: str = "") -> None:
    """Raises InputError for a column without a name: an index that pandas wrote, which would be read as data."""
    for at, name in enumerate(header):
        if _NAMELESS.fullmatch(trimmed(name)):
            raise InputError(
                f"{where}: column {at + 1} has no name{f' ({name})' * bool(name)}. Is it the index of a pandas table? "
                f"Write the file without it: to_csv(..., index=False){advice}."
            )


# ------------------------------------------------------------------ ids and empty cells

# Texts that mean an empty cell where a value is expected: those of pandas, R, databases and spreadsheets.
MISSING = (
    *("NA", "N/A", "n/a", "<NA>", "#N/A", "#N/A N/A", "#NA", "NULL", "null", "None", "NaT", "\\N", "NaN", "nan"),
    *("-NaN", "-nan", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)
_NO_ID = frozenset({word.casefold() for word in MISSING} | {"", "-", "--", ".", "?", "(null)", "[null]"})
EXACT_BITS = {np.dtype(np.float16): 11, np.dtype(np.float32): 24, np.dtype(np.float64): 53}  # of whole numbers
_WHOLE = re.compile(r"([+-]?\d+)\.0*", re.ASCII)
_FRACTION = re.compile(r"[+-]?\d*\.\d+", re.ASCII)
# Hexadecimal ids such as 12E4 have neither a sign nor a point in them.
_SCIENTIFIC = re.compile(r"[+-]?(\d+([.,]\d*)?[eE][+-]\d+|\d*[.,]\d+[eE]\d+)", re.ASCII)


def is_empty(text: str) -> bool:
    """Whether a cell of ids, patients or labels is empty: one of MISSING in any case, or a mark such as `-`.

    A value is compared with MISSING as it is written, since `none` and `-` may be levels.
    """
    return trimmed(text).casefold() in _NO_ID


def id_of_text(text: str) -> str | None:
    """The id that a cell names, None if it is empty. 200001.0 is 200001.

    Raises:
        InputError: a number that was rounded, or may have been.
    """
    text = trimmed(text)
    if text.isascii() and text.isdigit():
        return text
    if is_empty(text):
        return None
    if _SCIENTIFIC.fullmatch(text):
        raise InputError(f"{text!r} is in scientific notation, {_ROUNDED}")
    if whole := _WHOLE.fullmatch(text):
        if abs(int(whole[1])) >= 1 << 53:
            raise InputError(f"{text!r} is a decimal number of more than 2^53, {_ROUNDED}")
        return whole[1]
    if _FRACTION.fullmatch(text):
        raise InputError(f"{text!r} is a number with a fraction, {_ROUNDED}")
    return text


def id_of_float(number: float, kind: np.dtype[np.floating]) -> str | None:
    """The id that a floating-point number of type `kind` is, None for NaN. Raises InputError as `id_of_text`."""
    if np.isnan(number):
        return None
    if not number.is_integer() or abs(number) >= 1 << EXACT_BITS[kind]:
        raise InputError(f"{number!r} in a column of {kind} is no exact whole number, {_ROUNDED}")
    return str(int(number))


_ROUNDED = "so that different ids may have become equal. Write ids as whole numbers or texts where the table is made"


# ------------------------------------------------------------------ what no cell holds

LONGEST_CELL = 10_000  # characters of an id, time, variable, level or label; real ones have a few hundred at most


def cell_fault(text: str) -> str | None:
    """What is wrong with the text of an id, time, variable, level or label, in words."""
    if len(text) > LONGEST_CELL:
        return f"has {len(text):,} characters; allowed: {LONGEST_CELL:,}. {_QUOTE}"
    if "\n" in text or "\r" in text:
        return f"holds a line break. {_QUOTE}"
    return "holds a NUL character. Is the file damaged?" if "\0" in text else None


def swallows_rows(cell: str, delimiter: str, n_columns: int) -> bool:
    """Whether lines of the cell are rows of its table: an open quote swallows all up to the next quote."""
    lines = sum(bool(line.strip()) for line in cell.split("\n")[1:])
    return lines > 0 and n_columns > 1 and cell.count(delimiter) == lines * (n_columns - 1)


_QUOTE = "Is a quotation mark not closed, so that rows were read as a part of the cell?"
