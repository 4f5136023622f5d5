"""One look for all figures: the palette, an empty figure, and how a figure becomes part of a page or a file.

Colours are those of Okabe and Ito (2008), which colour-blind readers tell apart; lines also differ in their dashes.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seqsetvae.system.files import new_file

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
SERIES = [BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY]
DASHES: list[str | tuple[int, tuple[int, ...]]] = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1))]
MARKERS = ["o", "s", "^", "D", "v", "P"]
INK, MUTED, GRID, PAPER = "#1b1f24", "#6e7781", "#d8dee4", "#ffffff"
# In a page these follow its colours, so that a figure can be read in dark mode too.
_OF_PAGE = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--card)",
    BLUE: "var(--blue)",
    VERMILLION: "var(--vermillion)",
}
WIDTH, HEIGHT = 4.6, 3.4  # inches; at most the width of a phone, so that text is never made smaller
STYLE = Path(__file__).with_name("templates") / "figures.mplstyle"

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def _style(name: str = "") -> Iterator[None]:
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # whatever the user's own matplotlibrc says
        mpl.rcParams.update(
            {**mpl.rc_params_from_file(STYLE, use_default_template=False), "svg.hashsalt": f"report {name}"}
        )
        # The page's own font has the characters that matplotlib's lacks.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from .*font")
        yield


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """A function that draws in the common style."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with _style():
            return draw(*args, **kwargs)

    return wrapped


def empty(height: float = HEIGHT, *, long_labels: bool = False) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; with `long_labels` their room is measured, which takes a little longer."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained" if long_labels else None)
    axes = figure.subplots()
    if not long_labels:
        figure.subplots_adjust(left=0.14, right=0.97, bottom=0.5 / height, top=1 - 0.15 / height)
    return figure, axes


def line_style(position: int) -> dict[str, Any]:
    """Colour, dashes and marker of one of several lines; 36 of them differ."""
    shifted = position + position // len(SERIES)  # a colour that comes again has other dashes
    return {
        "color": SERIES[position % len(SERIES)],
        "linestyle": DASHES[shifted % len(DASHES)],
        "marker": MARKERS[shifted % len(MARKERS)],
    }


def as_svg(figure: Figure, name: str) -> str:
    """The figure as an SVG file; the same figure always gives the same text."""
    stream = io.StringIO()
    with _style(name):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def for_page(svg: str, name: str) -> str:
    """An SVG as part of a page: no header, as wide as its place, ids of its own, in the colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 aria-hidden="true" focusable="false"', svg, count=1)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for colour, of_page in _OF_PAGE.items():
        svg = re.sub(rf"{colour}\b", of_page, svg)
    return svg


def write_files(figure: Figure, svg: str, folder: Path, name: str) -> None:
    """NAME.svg and NAME.png in a folder. Raises CannotWriteError."""
    with new_file(folder / f"{name}.svg") as stream:
        stream.write(svg.encode())
    with new_file(folder / f"{name}.png") as stream, _style(name):
        figure.savefig(stream, format="png", dpi=150, metadata={"Software": None})
