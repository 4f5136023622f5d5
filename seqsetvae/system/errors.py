"""Errors that the user can correct, findings about data and results, and how messages word names and numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class InputError(ValueError):
    """Something the user gave is wrong: the message says what, where (file, row, variable) and what to do.

    The commands print it without a traceback and exit with status 2. Our own invariants are asserts instead.
    """


LONGEST_SHOWN = 80  # characters of a cell or name in a message


def shown(cell: object) -> str:
    """A cell or name as messages show it: quoted, and cut where it is long."""
    text = str(cell)
    return repr(text) if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]!r}... ({len(text):,} characters)"


def cut(text: str, most: int) -> str:
    """A text, cut after `most` characters."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def counted(number: int, noun: str) -> str:
    """`1 file`, `2 files`"""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def named(names: Sequence[str], most: int = 8) -> str:
    """The first of some names: `a, b and 3 more`"""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class Terminated(BaseException):
    """SIGTERM, as SLURM sends it before a time limit: what was done is saved, and the process should end now.

    Not an Exception, so that nothing on the way takes it for a failure.
    """


ERROR, WARNING, NOTE = LEVELS = ("error", "warning", "note")  # the most serious first


@dataclass(frozen=True)
class Finding:
    """What a check, a run or an evaluation says, and what to do about it.

    An error must be corrected, a warning can change what a result means, a note is for information.
    """

    level: str  # one of LEVELS
    text: str
    action: str = ""  # what to do, a sentence
    items: tuple[str, ...] = ()  # the stays, variables or files that it is about, those that are shown

    def as_plain(self) -> dict[str, str]:
        """A dictionary for the JSON of results, without the items."""
        return {"level": self.level, "text": self.text, "action": self.action}

    def line(self) -> str:
        """What was found and what to do, without the items."""
        stop = "" if self.text.endswith((".", "?", "!")) else "."
        return f"{self.text}{stop} {self.action}" if self.action else self.text


def totals(findings: Iterable[Finding]) -> str:
    """`1 error, 2 warnings`"""
    levels = [finding.level for finding in findings]
    return ", ".join(counted(levels.count(level), level) for level in (ERROR, WARNING))
