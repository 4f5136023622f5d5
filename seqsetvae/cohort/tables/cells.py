"""What the cells of a table mean: ids, times, numbers. Letters: R rows of a part."""

import contextlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seqsetvae.cohort.ids import MISSING, id_of_float, id_of_text
from seqsetvae.cohort.names import SURROUNDING
from seqsetvae.cohort.sidefiles import stay_number
from seqsetvae.errors import InputError

MICROSECONDS = 60_000_000  # in a minute
BAD_TIME = np.iinfo(np.int64).min  # a timestamp that is missing or cannot be read
MINUTES = {"seconds": 1 / 60, "minutes": 1.0, "hours": 60.0, "days": 1440.0}  # in one unit of time
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
DECIMALS = (".", ",")  # marks of the decimals in texts
_WITH_ZONE = re.compile(r"(Z|[+-]\d\d:?(\d\d)?)$")


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
    """(which id each row has [R], -1 = none; the ids as texts). 200001.0 is the id 200001.

    Raises:
        InputError: the cells are neither texts nor numbers, or an id was rounded.
    """
    if pa.types.is_nested(column.type) or pa.types.is_boolean(column.type):
        raise InputError(f"holds {column.type}, not ids")
    # Encoded before the texts are looked at: there are few of them.
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    code: dict[str, int] = {}
    local = [-1 if name is None else code.setdefault(name, len(code)) for name in _id_texts(encoded.dictionary)]
    return np.array([*local, -1], np.int32)[positions(encoded)], list(code)


def _id_texts(values: pa.Array) -> list[str | None]:
    if pa.types.is_floating(values.type):
        numbers = pc.fill_null(values.cast(pa.float64()), np.nan).to_pylist()
        kind = np.dtype(values.type.to_pandas_dtype())
        return [id_of_float(number, kind) for number in numbers]
    texts = as_text(values)
    if pa.types.is_decimal(values.type):  # exact, whatever their size
        texts = pc.replace_substring_regex(texts, r"\.0+$", "")
    return [None if text is None else id_of_text(text) for text in texts.to_pylist()]


def as_id_texts(column: pa.Array) -> pa.Array:
    """[R] Ids as texts, null where there is none. Raises InputError as `as_ids`."""
    local, texts = as_ids(column)
    return pa.array(texts, pa.string()).take(pa.array(local, mask=local < 0))


def positions(encoded: pa.DictionaryArray) -> NDArray[np.int32]:
    """[R] The position of each cell in the dictionary, -1 where it is empty."""
    return pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)


def id_numbers(ids: list[str]) -> NDArray[np.int64] | None:
    """Ids as whole numbers; None if one is something else.

    Raises:
        InputError: two ids that are one number, such as 007 and 7.
    """
    numbers = [stay_number(text) for text in ids]
    first: dict[int, str] = {}
    for number, text in zip(numbers, ids, strict=True):
        if number is not None and first.setdefault(number, text) != text:
            raise InputError(
                f"the ids {first[number]!r} and {text!r} are one number: the same stay, written in two ways? Write ids "
                "in one way in all files; if they are two stays, put a letter before each id."
            )
    return None if len(first) < len(ids) else np.array(numbers, dtype=np.int64)


def split_values(column: pa.Array, decimal: str = ".") -> tuple[NDArray[np.float64], pa.Array]:
    """(numbers [R], NaN where a cell is no number; texts [R], null where a cell is a number or empty).

    Texts with a `decimal` of "," are numbers with a decimal comma; one with a point is none then.
    """
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)):
        numbers = _cast(column, pa.float64())
        return pc.fill_null(numbers, np.nan).to_numpy(zero_copy_only=False), pa.nulls(len(column), pa.string())
    column = column.cast(pa.string())
    if decimal == ".":
        with contextlib.suppress(pa.ArrowInvalid):
            numbers = column.cast(pa.float64())
            return pc.fill_null(numbers, np.nan).to_numpy(zero_copy_only=False), pa.nulls(len(column), pa.string())
    text = as_text(column)
    is_number = pc.match_substring_regex(text, _NUMBER.replace(r"\.", re.escape(decimal)))
    plain = pc.replace_substring(pc.if_else(is_number, text, None), "+", "", max_replacements=1)
    plain = pc.replace_substring(plain, decimal, ".")
    numbers = pc.fill_null(_cast(plain, pa.float64()), np.nan).to_numpy(zero_copy_only=False)
    empty = pc.or_(is_number, pc.is_in(text, pa.array(MISSING)))
    return numbers, pc.if_else(empty, None, text)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """The cells as `kind`, null where that is not possible. Raises InputError if it never is for this type."""
    try:
        return column.cast(kind, safe=pa.types.is_string(column.type))
    except pa.ArrowNotImplementedError:
        raise InputError(f"holds {column.type}, which cannot be read as {kind}") from None
    except pa.ArrowInvalid:
        if len(column) == 1:
            return pa.nulls(1, kind)
        half = len(column) // 2  # few cells are bad, so that the halves soon are good
        return pa.concat_arrays([_cast(column[:half], kind), _cast(column[half:], kind)])


def in_unit(minutes: NDArray[np.float64], unit: str) -> NDArray[np.float64]:
    """Minutes as numbers of a unit of MINUTES, those that are the same minutes again; short ones first, as 7.3.

    >>> in_unit(np.array([90.0, 0.3 * 60]), "hours").tolist()
    [1.5, 0.3]
    """
    factor = MINUTES[unit]
    number = minutes / factor
    found = number.copy()
    for candidate in (np.nextafter(number, -np.inf), np.nextafter(number, np.inf), number, np.round(number, 9)):
        found = np.where(candidate * factor == minutes, candidate, found)
    return found


class TimeColumn:
    """How the times of a table are written, found in its first cells: numbers, or timestamps with or without a zone.

    Attributes:
        is_timestamp: else a time is a number.
    """

    def __init__(
        self,
        column: pa.Array,
        unit: str = "minutes",
        form: str | None = None,
        zone: str | None = None,
        origin: int | None = None,
        decimal: str = ".",
    ) -> None:
        """Look at some cells.

        Args:
            column: cells of the first part.
            unit: of times that are numbers, a key of MINUTES.
            form: of timestamps in text, as for strptime; None: ISO 8601.
            zone: of timestamps without one, such as Europe/Berlin; None: they are one clock without shifts.
            origin: in microseconds; timestamps become numbers, the minutes since then.
            decimal: the mark of the decimals, of numbers in text.

        Raises:
            InputError: the cells are times of a day, or durations.
        """
        self.unit, self.form, self.zone, self.origin, self.decimal = unit, form, zone, origin, decimal
        kind = column.type
        _refuse_other_times(kind)
        self.is_timestamp = pa.types.is_temporal(kind)
        self.has_zone = pa.types.is_timestamp(kind) and kind.tz is not None
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            first = as_text(column.drop_null()[:1000]).drop_null()
            self.is_timestamp = form is not None or 2 * split_values(first, decimal)[1].null_count < len(first)
            self.has_zone = 2 * sum(bool(_WITH_ZONE.search(text[10:])) for text in first.to_pylist()) > len(first)

        self.is_timestamp &= origin is None

    @property
    def dtype(self) -> type[np.generic]:
        """Timestamps are microseconds in UTC, int64; other times are minutes, float64."""
        return np.int64 if self.is_timestamp else np.float64

    @property
    def described(self) -> str:
        """What a time of this column is, for messages."""
        if not self.is_timestamp:
            return f"a number of {self.unit}"
        if self.form is not None:
            return f"a timestamp like {self.form}"
        return f"a timestamp {'with' if self.has_zone else 'without'} a time zone"

    def read(self, column: pa.Array) -> NDArray[Any]:
        """[R] Times in `dtype`; a cell that is empty or something else is BAD_TIME, or NaN."""
        if self.origin is not None:
            stamps = pc.fill_null(self._stamps(column).cast(pa.int64()), BAD_TIME).to_numpy(zero_copy_only=False)
            return np.where(stamps == BAD_TIME, np.nan, (stamps - self.origin) / MICROSECONDS)
        if not self.is_timestamp:
            numbers = split_values(column, self.decimal)[0] * MINUTES[self.unit]
            return np.where(np.isfinite(numbers), numbers, np.nan)
        stamps = self._stamps(column)
        return pc.fill_null(stamps.cast(pa.int64()), BAD_TIME).to_numpy(zero_copy_only=False)

    def _stamps(self, column: pa.Array) -> pa.Array:
        utc, naive = pa.timestamp("us", "UTC"), pa.timestamp("us")
        _refuse_other_times(column.type)
        if pa.types.is_temporal(column.type):
            stamps = column.cast(utc if self.has_zone else naive, safe=False)
        elif not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return pa.nulls(len(column), naive)
        elif self.form is not None:
            stamps = pc.strptime(column, self.form, "us", error_is_null=True)
        else:
            stamps = _cast(pc.utf8_trim_whitespace(column), utc if self.has_zone else naive)
        if self.zone is not None and not self.has_zone:
            stamps = self._located(stamps)
        return stamps

    def _located(self, stamps: pa.Array) -> pa.Array:
        """Local times of the zone in UTC; the hour that occurs twice in autumn counts as the earlier one."""
        try:
            return pc.assume_timezone(stamps, self.zone, ambiguous="earliest", nonexistent="earliest")
        except pa.ArrowInvalid as error:
            raise InputError(f"--time_zone {self.zone}: {error}") from None


def _refuse_other_times(kind: pa.DataType) -> None:
    """Raises InputError for a type of times that are not points of time."""
    if pa.types.is_temporal(kind) and not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise InputError(f"holds {kind}; allowed: timestamps, dates, texts or numbers")


def in_column(where: str, column: str, work: Callable[[], Any]) -> Any:
    """What `work` returns; an InputError gets the file and column put before it."""
    try:
        return work()
    except InputError as error:
        raise InputError(f"{where}, column {column}: {error}.") from None
