"""Ids, and the texts that mean an empty cell."""

import re

import numpy as np

from seqsetvae.cohort.names import trimmed
from seqsetvae.errors import InputError

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
