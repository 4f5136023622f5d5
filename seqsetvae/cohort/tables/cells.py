"""What the cells of a table mean: ids, numbers, levels. Letters: R rows of a part.

Texts may be numbers written in a way that is not read: 85,0 and 1.234,5, 85 bpm and 12%, >90, 1/2, １２. Taken for
categories, each number of a variable would be a category of its own.
"""

import contextlib
import re
import unicodedata
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsetvae.cohort.names import LONGEST_CELL, MISSING, SURROUNDING, cell_fault, id_of_float, id_of_text, trimmed
from seqsetvae.system.errors import InputError
from seqsetvae.system.privacy import from_cell

NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_PLAIN_ID = r"^([0-9]+|[A-Za-z][A-Za-z0-9_-]*[0-9])$"  # what `id_of_text` leaves as it is, and most ids are
_WHOLE_ID = r"^(-?)0*([0-9]{1,19})$"
DECIMALS = (".", ",")  # marks of the decimals in texts


def is_text(kind: pa.DataType) -> bool:
    """Whether cells of this type are texts."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def first_fault(column: pa.Array) -> tuple[int, str] | None:
    """(position, what is wrong) of the first text that is no id, time, variable, level or label; None: all are."""
    if pa.types.is_dictionary(column.type):
        fault = first_fault(column.dictionary)
        rows = np.flatnonzero(positions(column) == fault[0]) if fault else np.zeros(0, np.int64)
        return (int(rows[0]), fault[1]) if fault and len(rows) else None
    if not is_text(column.type) or not len(column):
        return None
    data = (column.buffers()[2] or pa.py_buffer(b"")).to_pybytes()  # of the whole part: a quick look at all cells
    longest = pc.max(pc.utf8_length(column)).as_py() or 0
    if longest <= LONGEST_CELL and not any(mark in data for mark in (b"\n", b"\r", b"\0")):
        return None
    bad = pc.match_substring_regex(pc.utf8_trim_whitespace(column), "[\\n\\r\\x00]")
    bad = pc.or_(bad, pc.greater(pc.utf8_length(column), LONGEST_CELL))
    rows = np.flatnonzero(pc.fill_null(bad, False).to_numpy(zero_copy_only=False))
    return (int(rows[0]), str(cell_fault(column[int(rows[0])].as_py().strip()))) if len(rows) else None


def as_text(column: pa.Array) -> pa.Array:
    """[R] Cells as texts without spaces around them; an empty text is null. 3.0 becomes "3".

    Raises:
        InputError: the cells are neither texts, numbers nor truth values.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_floating(kind):
        column = column.cast(pa.float32() if pa.types.is_float16(kind) else kind)
        plain = pc.replace_substring_regex(column.cast(pa.string()), r"\.0$", "")
        return pc.if_else(pc.is_nan(column), None, plain)
    try:
        text = pc.utf8_trim(column.cast(pa.string()), SURROUNDING)
    except (pa.ArrowException, NotImplementedError):
        raise InputError(f"holds {kind}, not text or numbers") from None
    return pc.if_else(pc.equal(text, ""), None, text)


def as_facts(column: pa.Array) -> pa.Array:
    """[R] Cells as texts; those that mean an empty cell are null. Raises InputError as `as_text`."""
    text = as_text(column)
    return pc.if_else(pc.is_in(text, pa.array(MISSING)), None, text)


def as_ids(column: pa.Array) -> tuple[NDArray[np.int32], list[str]]:
    """(which id each row has [R], -1 = none; the ids as texts). Raises InputError as `as_id_texts`."""
    encoded = as_id_texts(column).dictionary_encode()
    return positions(encoded), encoded.dictionary.to_pylist()


def as_id_texts(column: pa.Array) -> pa.Array:
    """[R] Ids as texts, null where there is none. 200001.0 is the id 200001.

    Raises:
        InputError: the cells are neither texts nor numbers, or an id was rounded.
    """
    if pa.types.is_nested(column.type) or pa.types.is_boolean(column.type):
        raise InputError(f"holds {column.type}, not ids")
    if pa.types.is_dictionary(column.type) or pa.types.is_floating(column.type):
        # Encoded before the texts are looked at: there may be few of them.
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        return _id_texts(encoded.dictionary).take(encoded.indices)
    return _id_texts(column)


def as_known_ids(column: pa.Array, known: pa.Array) -> pa.Array:
    """[R] Ids as texts; one that is not among the `known` is as it was before `as_cell` wrote it for a spreadsheet."""
    texts = as_id_texts(column)
    if pc.any(pc.starts_with(texts, "'")).as_py():
        plain = pa.array([None if text is None else from_cell(text) for text in texts.to_pylist()], pa.string())
        texts = pc.if_else(pc.is_in(texts, known), texts, plain)
    return texts


def _id_texts(values: pa.Array) -> pa.Array:
    if pa.types.is_floating(values.type):
        numbers = pc.fill_null(values.cast(pa.float64()), np.nan).to_pylist()
        kind = np.dtype(values.type.to_pandas_dtype())
        return pa.array([id_of_float(number, kind) for number in numbers], pa.string())
    texts = as_text(values)
    if pa.types.is_decimal(values.type):  # exact, whatever their size
        texts = pc.replace_substring_regex(texts, r"\.0+$", "")
    rest = pc.if_else(pc.match_substring_regex(texts, _PLAIN_ID), None, texts).dictionary_encode()
    ids = pa.array([id_of_text(text) for text in rest.dictionary.to_pylist()], pa.string())
    return pc.if_else(rest.is_valid(), ids.take(rest.indices), texts)


def positions(encoded: pa.DictionaryArray) -> NDArray[np.int32]:
    """[R] The position of each cell in the dictionary, -1 where it is empty."""
    return pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)


def id_numbers(ids: pa.Array) -> NDArray[np.int64] | None:
    """Different ids as whole numbers; None if one is something else.

    Raises:
        InputError: two ids that are one number, such as 007 and 7.
    """
    digits = pc.if_else(pc.match_substring_regex(ids, _WHOLE_ID), ids, None)
    number = cast_cells(pc.replace_substring_regex(digits, _WHOLE_ID, r"\1\2"), pa.int64())
    known = np.flatnonzero(number.is_valid())
    order = known[np.argsort(number.take(pa.array(known)).to_numpy(), kind="stable")]
    ascending = number.take(pa.array(order)).to_numpy()
    again = np.flatnonzero(ascending[1:] == ascending[:-1])
    if len(again):
        one, other = (ids[int(row)].as_py() for row in sorted(order[again[0] : again[0] + 2]))
        raise InputError(
            f"the ids {one!r} and {other!r} are one number: the same stay, written in two ways? Write ids "
            "in one way in all files; if they are two stays, put a letter before each id."
        )
    return None if len(known) < len(ids) else number.to_numpy()


def split_values(column: pa.Array, decimal: str = ".") -> tuple[NDArray[np.float64], pa.Array]:
    """(numbers [R], NaN where a cell is no number; texts [R], null where a cell is a number or empty).

    Texts with a `decimal` of "," are numbers with a decimal comma; one with a point is none then.
    """
    kind = column.type
    if not (is_text(kind) or pa.types.is_dictionary(kind)):
        numbers = cast_cells(column, pa.float64())
        return pc.fill_null(numbers, np.nan).to_numpy(zero_copy_only=False), pa.nulls(len(column), pa.string())
    column = column.cast(pa.string())
    if decimal == ".":
        with contextlib.suppress(pa.ArrowInvalid):
            numbers = column.cast(pa.float64())
            return pc.fill_null(numbers, np.nan).to_numpy(zero_copy_only=False), pa.nulls(len(column), pa.string())
    text = as_text(column)
    is_number = pc.match_substring_regex(text, NUMBER.replace(r"\.", re.escape(decimal)))
    plain = pc.replace_substring(pc.if_else(is_number, text, None), "+", "", max_replacements=1)
    plain = pc.replace_substring(plain, decimal, ".")
    numbers = pc.fill_null(cast_cells(plain, pa.float64()), np.nan).to_numpy(zero_copy_only=False)
    empty = pc.or_(is_number, pc.is_in(text, pa.array(MISSING)))
    return numbers, pc.if_else(empty, None, text)


def cast_cells(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The cells as `kind`, null where that is not possible. Raises InputError if it never is for this type."""
    try:
        return column.cast(kind, safe=pa.types.is_string(column.type))
    except pa.ArrowNotImplementedError:
        raise InputError(f"holds {column.type}, which cannot be read as {kind}") from None
    except pa.ArrowInvalid:
        if len(column) == 1:
            return pa.nulls(1, kind)
        half = len(column) // 2  # few cells are bad, so that the halves soon are good
        return pa.concat_arrays([cast_cells(column[:half], kind), cast_cells(column[half:], kind)])


def in_column(where: str, column: str, work: Callable[[], Any]) -> Any:
    """Return work(); an InputError from it is raised again with the file and column before its text."""
    try:
        return work()
    except InputError as error:
        text = str(error)
        raise InputError(f"{where}, column {column}: {text}{'' if text.endswith(('.', '?')) else '.'}") from None


_PLAIN = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_COMMA = r"\d*,\d+(?:e[+-]?\d+)?"
_POINTS = r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}"
_THOUSANDS = r"\d{1,3}(?:[,' _]\d{3})+(?:[.,]\d+)?"
_CORE = rf"[+-]? ?(?:{_THOUSANDS}|{_POINTS}|{_COMMA}|{_PLAIN})"
_BOUND = r"(?:[<>≤≥=~≈±]+|(?:less|greater|more) than|above|below|over|under|approx\.?|about|circa|ca\.?)"
_PART = r"(?:[munpkdcfμ]?(?:g|l|mol|eq|u|iu|osm|m)|mcg|kg|hpf|lpf|min|s|h|hr|d|day|24 ?h|1\.73 ?m.?2)"
_UNIT = (  # known ones; others are recognised by several numbers that share one
    r"%|‰|°[cfk]?|deg(?:rees?)?(?: ?[cf])?|celsius|fahrenheit|bpm|rpm|mm ?hg|cm ?h2o|kpa|hpa|torr|mcg|[munpkμ]g|gm"
    r"|grams?|lbs?|oz|[mdcμu]l|cc|lit(?:er|re)s?|lpm|[mcμn]m|inch(?:es)?|ft|[munpμ]?mol|mosm(?:ol)?|meq|[mkμu]?iu|units?"
    r"|secs?|seconds?|mins?|minutes?|hrs?|hours?|days?|weeks?|months?|yrs?|years?|ms|m[va]|hz|kcal|kj|beats|breaths"
    rf"|percent|pct|{_PART}(?: ?/ ?{_PART})+|(?:beats|breaths|cells|copies|units)? ?/ ?{_PART}"
    rf"|[x×]? ?10 ?[\^*e]? ?\d+(?: ?/ ?{_PART})?"
)
_FORMS = {  # how a number is written, in the order of asking
    "number": rf"[+-]? ?{_PLAIN}",
    "comma": rf"[+-]? ?{_COMMA}",
    "points": rf"[+-]? ?(?:{_POINTS})",
    "thousands": rf"[+-]? ?{_THOUSANDS}",
    "bound": rf"{_BOUND} ?{_CORE}(?: ?(?:{_UNIT}))?",
    "fraction": r"\d{1,3} ?/ ?\d{1,3}",
    "unit": rf"[$€£]? ?{_CORE} ?(?:{_UNIT})|[$€£] ?{_CORE}",
    "date": r"(?:\d{4}([-/])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{4})(?:[ t]\d{1,2}:\d{2}.*)?",
}
_ADVICE = {
    "number": "a number in the column of texts; write it in the column of values",
    "comma": "a decimal comma; pass --decimal ,",
    "points": "points between thousands and perhaps a decimal comma; write it without these points, and see --decimal",
    "thousands": "thousands that are separated; write it without the separator",
    "bound": "a bound; write the number alone, or leave the variable out",
    "fraction": "two numbers in one cell; write each as a variable, or their quotient",
    "unit": "a unit beside the number; write the number alone",
    "date": "a date or a time; leave the variable out, or write how long before or after something it is",
    "signs": "unusual digits, signs or marks; write it with the digits 0 to 9 and a point",
    "point": "a decimal point, where --decimal asks for a comma; leave out --decimal",
    "ambiguous": "separated thousands or a decimal comma: write it without the comma, or pass --decimal ,",
}
_WITH_TEXT = re.compile(rf"({_CORE})( ?)([^\d\s.,:+\-/<>=][^\n]*)")
_NO_UNIT = re.compile(r"(?:st|nd|rd|th)\b.*|[ap]\.?m\.?|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec).*")
_RANGE = re.compile(rf"[\[(]? ?{_CORE} ?(?:-|–|to) ?{_CORE}.*")
SHARED = 3  # numbers with the same text beside them, which then is a unit


class WrittenNumbers(NamedTuple):
    """The levels of a variable that are numbers in another form; `advice` says how the first of them is written."""

    levels: list[str]
    advice: str


def written_numbers(levels: Collection[str], decimal: str = ".") -> WrittenNumbers:
    """The levels of one variable that are numbers in a form that is not read with this `decimal`."""
    texts = {level: _plain(level) for level in levels}
    form = {level: _form(level, text, decimal) for level, text in texts.items()}
    if _are_bands(texts, form):
        form = {level: "" if name == "bound" else name for level, name in form.items()}
    form |= dict.fromkeys(_with_shared_text({level: text for level, text in texts.items() if not form[level]}), "unit")
    numbers = sorted((level for level in levels if form[level]), key=lambda level: form[level] != "comma")
    if not numbers:
        return WrittenNumbers([], "")
    name = form[numbers[0]]
    if name == "comma" and all(re.fullmatch(r".*\d,\d{3}", texts[level]) for level in numbers if form[level] == name):
        name = "thousands" if "thousands" in form.values() else "ambiguous"
    return WrittenNumbers(numbers, _ADVICE[name])


def _form(level: str, text: str, decimal: str) -> str:
    """A key of _ADVICE; empty if the text is no number."""
    name = next((name for name, form in _FORMS.items() if re.fullmatch(form, text)), "")
    if decimal == "," and name == "number" and "." in text:
        return "point"
    if name == "number" or (name == "comma" and decimal == ","):  # it would be read in a column of values
        return "number" if text == level.casefold() else "signs"
    return name


def _are_bands(texts: dict[str, str], form: dict[str, str]) -> bool:
    """Whether bounds are categories beside others: `<40, 40-60, >60`, and `>7, >8, normal`."""
    n_bounds = list(form.values()).count("bound")
    is_few = n_bounds <= SHARED and "" in form.values()
    return is_few or any(_RANGE.fullmatch(text) for text in texts.values())


def _plain(level: str) -> str:
    """A text with ASCII digits and signs, one kind of spaces, no quotes and no case."""
    text = unicodedata.normalize("NFKC", level)
    text = "".join(str(unicodedata.decimal(each)) if each.isdecimal() else each for each in text)
    text = re.sub(r"\s+", " ", text.translate({0x2212: "-", 0x2044: "/", 0x2019: "'"}))
    return trimmed(re.sub(r"""^="?|^["'`]+|["'`*]+$""", "", trimmed(text))).casefold()


def _with_shared_text(texts: dict[str, str]) -> list[str]:
    """Levels such as `85 foo`, where several numbers have the same text: most of them, or some with decimals."""
    groups: dict[str, dict[str, str]] = {}
    for level, text in texts.items():
        match = _WITH_TEXT.fullmatch(text)
        if match is None or _NO_UNIT.fullmatch(match[3]) or re.match(r"0\d", match[1]):
            continue
        if not re.search(r"\d", match[3]) or match[2] or re.search(r"[/^*]", match[3]):
            groups.setdefault(match[3], {})[match[1]] = level
    return [
        level
        for group in groups.values()
        if len(group) >= SHARED and (2 * len(group) > len(texts) or any(re.search(r"[.,]", number) for number in group))
        for level in group.values()
    ]
