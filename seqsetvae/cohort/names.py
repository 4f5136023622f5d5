"""Names of variables, levels and columns: what around them does not count, and which may be one name in two forms."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from seqsetvae.errors import InputError

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


def alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of different names that are equal without case, Unicode form, spaces around and invisible characters."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_folded(name), []).append(name)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def _folded(name: str) -> str:
    visible = unicodedata.normalize("NFKC", name).translate(dict.fromkeys(map(ord, _INVISIBLE)))
    return unicodedata.normalize("NFKC", " ".join(visible.split()).casefold())


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
