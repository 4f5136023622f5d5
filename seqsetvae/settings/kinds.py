"""Kinds of values: what a setting allows, and how a value of the config file or the text of a flag is converted."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


class Kind(Protocol):
    """The values that a setting allows."""

    @property
    def allowed(self) -> str:
        """For error messages."""

    @property
    def metavar(self) -> str:
        """Placeholder of the value in --help."""

    def convert(self, received: Any) -> Any:
        """The value of a config value or of a flag's text. Raises ValueError, TypeError or OverflowError."""


class NotAllowedError(ValueError):
    """A value that is not allowed for a reason worth telling, for example "which does not exist"."""


@dataclass(frozen=True)
class Values:
    """A kind whose parts are known when it is made."""

    allowed: str
    convert: Callable[[Any], Any]
    metavar: str


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


def number(low: float, high: float = math.inf, *, above: bool = False) -> Kind:
    """A finite number of at least low (or above it), and at most high."""

    def convert(received: Any) -> float:
        if isinstance(received, bool) or not _bounded(float(received), low, high, above):
            raise ValueError
        return float(received)

    return Values(f"a number {'above' if above else 'of at least'} {low:g}" + _up_to(high), convert, "X")


def _bounded(value: float, low: float, high: float, above: bool) -> bool:
    return math.isfinite(value) and (value > low if above else value >= low) and value <= high


def integer(low: int, high: float = math.inf) -> Kind:
    """An integer of at least low and at most high."""

    def convert(received: Any) -> int:
        if isinstance(received, bool | float) or not low <= int(received) <= high:
            raise ValueError
        return int(received)

    return Values(f"an integer of at least {low}" + _up_to(high), convert, "N")


def _up_to(high: float) -> str:
    return "" if math.isinf(high) else f" and at most {high:g}" if high < 1e6 else f" and at most {high}"


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
