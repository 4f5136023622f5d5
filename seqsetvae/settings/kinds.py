"""Kinds of values: what a setting allows, and how a value of the config file or the text of a flag is converted."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LARGEST_INTEGER = 2**31 - 1  # libraries hold counts in 32 bits, or in 64 and multiply them
LARGEST_NUMBER = 1e30  # float32 holds its product with any count of a model


class NotAllowedError(ValueError):
    """A value that is not allowed, with a reason that the error shows, for example "which does not exist"."""


@dataclass(frozen=True)
class Values:
    """The values that a setting allows."""

    allowed: str  # for error messages
    convert: Callable[[Any], Any]  # a config value or the text of a flag; raises ValueError, TypeError or OverflowError
    metavar: str  # placeholder of the value in --help


@dataclass(frozen=True)
class OneOf:
    """One of the names that a registry holds when the value is converted; an alias is another spelling of a name."""

    names: Callable[[], Collection[str]]
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def allowed(self) -> str:
        return "one of " + ", ".join(self.names())

    @property
    def metavar(self) -> str:
        return "{" + ",".join(self.names()) + "}"

    def convert(self, received: Any) -> str:
        name = self.aliases.get(f"_{received}".replace("-", "_"), str(received))
        if name not in self.names():
            raise ValueError
        return name


@dataclass(frozen=True)
class Several:
    """None (on the command line: none), or one or more values of a kind; on the command line side by side."""

    kind: Kind
    may_be_empty: bool = False  # the flag may stand without a value

    @property
    def allowed(self) -> str:
        return f"{self.kind.allowed} or several, or None"

    @property
    def metavar(self) -> str:
        return self.kind.metavar

    def convert(self, received: Any) -> tuple[Any, ...] | None:
        if received in (None, "none", "None", ["none"], ["None"]):
            return None
        values = received if isinstance(received, list | tuple) else [received]
        return tuple(self.kind.convert(value) for value in values)


def choice(*names: str, **aliases: str) -> OneOf:
    """One of these names."""
    return OneOf(lambda: names, aliases)


Kind = Values | OneOf | Several


def number(low: float, high: float = math.inf, *, above: bool = False) -> Kind:
    """A finite number of at least low (or above it), and at most high."""
    return _range(float, f"a number {'above' if above else 'of at least'} {low:g}", low, high, above, "X")


def integer(low: int, high: float = math.inf) -> Kind:
    """An integer of at least low and at most high."""
    return _range(int, f"an integer of at least {low}", low, high, False, "N")


def _range(to: type[int] | type[float], lower: str, low: float, high: float, above: bool, metavar: str) -> Kind:
    largest = LARGEST_INTEGER if to is int else LARGEST_NUMBER
    refused = bool | float if to is int else bool  # int() would cut the digits of a float

    def convert(received: Any) -> float:
        value = to(received)
        if math.isinf(high) and not isinstance(received, refused) and largest < value < math.inf:
            raise NotAllowedError(f"which is above {largest}")
        inside = low <= value <= high and value != math.inf and not (above and value == low)
        if isinstance(received, refused) or not inside:
            raise ValueError
        return value

    upper = "" if math.isinf(high) else f" and at most {high:g}" if high < 1e6 else f" and at most {high}"
    return Values(lower + upper, convert, metavar)


def _boolean(received: Any) -> bool:
    words = {"true": True, "false": False}
    if str(received).lower() not in words:
        raise ValueError
    return words[str(received).lower()]


BOOLEAN: Kind = Values("true or false", _boolean, "true|false")  # as a flag without a value it means true


def path() -> Kind:
    return Values("a path", _path, "PATH")


def existing_path() -> Kind:
    """A file or folder that exists when the settings are read."""

    def convert(received: Any) -> Path:
        value = _path(received)
        if not exists(value):
            raise NotAllowedError("which does not exist")
        return value

    return Values("an existing path", convert, "PATH")


def text() -> Kind:
    return Values("a non-empty string", _text, "TEXT")


def name() -> Kind:
    """A name that can be part of the name of a file."""

    def convert(received: Any) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", str(received)):
            raise ValueError
        return str(received)

    return Values("a name of up to 64 letters, digits, - and _", convert, "NAME")


def _path(received: Any) -> Path:
    return Path(_text(received)).expanduser()


def _text(received: Any) -> str:
    if not isinstance(received, str | Path) or not str(received).strip() or "\0" in str(received):
        raise ValueError
    return str(received)


def exists(file: Path) -> bool:
    """Whether a path exists; no error for a name that is too long, or in a folder that may not be searched."""
    try:
        return file.exists()
    except OSError:
        return False


def optional(kind: Kind) -> Kind:
    """None (on the command line: none), or a value that `kind` allows."""
    return Values(
        f"{kind.allowed}, or None",
        lambda received: None if received in (None, "none", "None") else kind.convert(received),
        kind.metavar,
    )


def either(first: Kind, second: Kind) -> Kind:
    """A value that one of the two allows."""

    def convert(received: Any) -> Any:
        try:
            return first.convert(received)
        except (ValueError, TypeError):
            return second.convert(received)

    return Values(f"{first.allowed}, or {second.allowed}", convert, f"{first.metavar}|{second.metavar}")
