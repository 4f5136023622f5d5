"""What a page consists of; the templates show each kind of part in one way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Card:
    """A figure that a reader should see first."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its heading."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: bool = True  # align all cells but the first to the right


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure, what it shows, and the same for readers who cannot see it."""

    name: str  # of its files and of its ids in the page
    title: str
    caption: str
    alt: str
    figure: Figure
    wide: bool = False


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a page with a heading of its own."""

    key: str
    title: str
    text: Sequence[str] = ()  # paragraphs
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()  # shown when opened, and in print
    lines: Sequence[str] = ()  # output of a program


@dataclass(frozen=True)
class Missing:
    """A part that the report could have, and the command that adds it."""

    what: str
    command: str
