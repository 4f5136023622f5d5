"""What a page consists of, which the templates show in one way each, and how numbers and names are written in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from matplotlib.figure import Figure

from seqsetvae.tasks.scores import BINARY_METRICS

Metric = Mapping[str, Any]  # value, low, high, as in evaluation.json; low and high are the ends of its 95 % interval
MODEL = "This model"


@dataclass(frozen=True)
class Card:
    """A number that a reader should see first."""

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


# ------------------------------------------------------------------ numbers and names


def number(value: float | None, digits: int = 3) -> str:
    """A number with a real minus sign; a dash for no value.

    >>> number(-0.01234), number(None)
    ('−0.012', '–')
    """
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def value_of(metric: Metric | None) -> float | None:
    """None where it is not defined."""
    return None if metric is None else metric.get("value")


def has_interval(metric: Metric | None) -> bool:
    """Whether both ends are known."""
    return metric is not None and None not in (metric.get("low"), metric.get("high"))


def interval(metric: Metric | None, digits: int = 3) -> str:
    """The 95 % interval alone.

    >>> interval({"value": 0.5, "low": 0.4, "high": 0.6}, 2)
    '0.40 to 0.60'
    """
    if metric is None or not has_interval(metric):
        return "–"
    return f"{number(metric['low'], digits)} to {number(metric['high'], digits)}"


def with_interval(metric: Metric | None) -> str:
    """A metric and its 95 % interval.

    >>> with_interval({"value": 0.5, "low": 0.4, "high": 0.6}), with_interval({"value": 0.5})
    ('0.500 (0.400 to 0.600)', '0.500')
    """
    return f"{number(value_of(metric))} ({interval(metric)})" if has_interval(metric) else number(value_of(metric))


def stacked(metric: Metric | None) -> str:
    """A metric and, on a second line, its 95 % interval.

    >>> stacked({"value": 0.5, "low": 0.4, "high": 0.6})
    '0.500\\n0.400 to 0.600'
    """
    return f"{number(value_of(metric))}\n{interval(metric)}" if has_interval(metric) else number(value_of(metric))


def percent(share: float) -> str:
    """
    >>> percent(0.1402)
    '14.0 %'
    """
    return f"{share:.1%}".replace("%", " %")


def metric_name(name: str) -> str:
    """
    >>> metric_name("ppv"), metric_name("MAE of days")
    ('Positive predictive value', 'MAE of days')
    """
    if name not in BINARY_METRICS:
        return name
    words = BINARY_METRICS[name].in_full or BINARY_METRICS[name].title
    return words[:1].upper() + words[1:]


def model_name(name: str) -> str:
    """A baseline's name as a reader says it; of another run's checkpoint, the run.

    >>> model_name("boosted_trees"), model_name("outputs/run_1/checkpoints/best.ckpt")
    ('Boosted trees', 'run_1')
    """
    if "/" in name or name.endswith(".ckpt"):
        return PurePath(name.removesuffix("/checkpoints/best.ckpt")).name
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def as_name(text: str) -> str:
    """A text as a part of the name of a file, and of an id in the page.

    >>> as_name("MAE of days")
    'MAE_of_days'
    """
    return "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in text)


def duration(seconds: float) -> str:
    """
    >>> duration(40), duration(75), duration(7320)
    ('40 s', '1 min 15 s', '2 h 2 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
