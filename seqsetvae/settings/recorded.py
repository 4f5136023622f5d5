"""Settings that a file records are held to the ranges of the settings themselves: files may be damaged or made up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqsetvae.errors import InputError
from seqsetvae.settings.declare import declared
from seqsetvae.settings.kinds import Kind


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
