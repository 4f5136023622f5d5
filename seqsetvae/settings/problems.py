"""What is wrong with the settings of a call, a line for each mistake, or with those that a file records.

Recorded settings are held to the ranges of the settings themselves: files may be damaged or made up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqsetvae.settings.declare import Setting, declared, groups_in
from seqsetvae.settings.kinds import Kind, NotAllowedError
from seqsetvae.system.errors import InputError


@dataclass
class Problems:
    """What the user has to correct, a line for each mistake."""

    lines: list[str] = field(default_factory=list)
    settings: set[str] = field(default_factory=set)  # those that have a line

    def add(self, line: str, *settings: str | None) -> None:
        """A line about these settings."""
        self.lines.append(line)
        self.settings.update(name for name in settings if name)

    def add_consequences(self, lines: Iterable[str]) -> None:
        """Lines that begin with the name of a setting; they are left out if it already has a line."""
        self.lines += [line for line in dict.fromkeys(lines) if line.split(":")[0] not in self.settings]

    def error(self) -> InputError:
        count = "one problem" if len(self.lines) == 1 else f"{len(self.lines)} problems"
        return InputError("\n  ".join([f"{count} with the settings, nothing was read or written:", *self.lines]))


def problems_of_groups(settings: Any) -> list[str]:
    groups = [] if settings is None else groups_in(settings)
    return [line for group in groups if hasattr(group, "problems") for line in group.problems()]


def convert(received: Mapping[str, Any], known: Mapping[str, Setting], problems: Problems) -> dict[str, Any]:
    """Values in the types of the settings, without those that are not allowed."""
    values = {}
    for name, value in received.items():
        kind = known[name].kind
        try:
            values[name] = kind.convert(value)
        except (ValueError, TypeError, OverflowError) as error:
            reason = f", {error}" if isinstance(error, NotAllowedError) else ""
            problems.add(f"{name}: received {shown(value)}{reason}; allowed: {kind.allowed}", name)
    return values


def shown(received: Any) -> str:
    """A value as it was given: the words of a flag that takes several are one text."""
    words = isinstance(received, list) and all(isinstance(word, str) for word in received)
    return repr(" ".join(received) if words else received)


def check_recorded(group: type, recorded: Any, file: str | Path) -> None:
    """Compare those settings of a group that a file records with what the group allows; other names are ignored.

    Raises:
        InputError: `recorded` is no mapping, or one of its values is not allowed.
    """
    if not isinstance(recorded, Mapping):
        raise InputError(f"{file}: damaged, it records {recorded!r:.60} where settings are expected. Use another copy.")
    for name, item in declared(group).items():
        if name in recorded and not _allows(item.kind, recorded[name]):
            raise InputError(
                f"{file}: records {name} = {recorded[name]!r:.60}; allowed: {item.kind.allowed}. The file is damaged "
                "or was not written by this program: use another copy."
            )


def _allows(kind: Kind, value: Any) -> bool:
    """Whether a value is allowed as it is; texts of numbers, which a flag may have, are not."""
    try:
        converted = kind.convert(value)
    except (ValueError, TypeError, OverflowError):
        return False
    return converted == value and isinstance(converted, str) == isinstance(value, str)
