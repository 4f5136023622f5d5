"""What a check, a run or an evaluation has to say: how serious it is, what was found, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from seqsetvae.system.errors import counted

ERROR, WARNING, NOTE = LEVELS = ("error", "warning", "note")  # the most serious first


@dataclass(frozen=True)
class Finding:
    """One of them. An error must be corrected, a warning can change what a result means, a note is for information."""

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
