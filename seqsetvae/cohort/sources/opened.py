"""What a source hands to the compiler, and the flags that sources share.

Tables that a source wrote for itself are called in messages as the user calls them, who never sees them.
"""

import argparse
import re
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seqsetvae.cohort.imported import SAID, Imported
from seqsetvae.cohort.sidefiles import Labels
from seqsetvae.cohort.tidy import Rows, Skip, Source, Stay, Stays
from seqsetvae.system.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Stays and labels of a source; the names are those of the arguments of compile_cohort."""

    source: Source
    label_name: str
    labels: Labels | None  # 0 or 1 by stay number
    imported: Imported | None = None  # what the cohort keeps beside its arrays
    beside: Mapping[str, Path] = field(default_factory=dict)  # files to copy into the cohort, by their names there


def add_common(parser: ArgumentParser) -> None:
    """OUT and the flags that every source has."""
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder for the compiled cohort")
    add_compile_flags(parser)


def add_compile_flags(parser: ArgumentParser) -> None:
    """The flags of a compilation that every source has."""
    parser.add_argument("--skip_bad", action="store_true", help="leave faulty files out, listed in OUT/skipped.csv")
    parser.add_argument("--jobs", type=_positive, metavar="N", help="threads (default: one per core)")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


@dataclass(frozen=True)
class MadeFiles:
    """How messages call files that were made of the user's."""

    names: Mapping[str, str]  # path -> name in messages
    has_rows: bool = True  # a row is at the same place in both

    def said(self, text: str) -> str:
        """A text with these names, and without rows that are not those of the user."""
        row = "" if self.has_rows else r"(, row \d+ \(counted from 0\))?"
        for path, name in self.names.items():
            text = re.sub(re.escape(path) + row, lambda _: name, text)  # noqa: B023
        return text

    def skip(self, skip: Skip) -> Skip:
        """A fault with these names."""
        row = skip.row if self.has_rows or skip.file not in self.names else None
        return replace(skip, file=self.said(skip.file), reason=self.said(skip.reason), row=row)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Errors that are raised here have these names."""
        try:
            yield
        except InputError as error:
            raise InputError(self.said(str(error))) from None

    def renamed(self, opened: Opened, description: str | None = None) -> Opened:
        """What was opened, whose sentences and faults have these names; None: its description stays."""
        imported = opened.imported
        said: dict[str, Any] = {name: [*map(self.said, getattr(imported, name))] for name in SAID if imported}
        imported = imported and replace(imported, **said)
        return replace(opened, source=_Renamed(opened.source, self, description), imported=imported)


class _Renamed:
    """A source whose faults have other names."""

    def __init__(self, source: Source, made: MadeFiles, description: str | None) -> None:
        self._source, self._made = source, made
        self.description = description or source.description
        self.skips, self.unnamed_rows = [*map(made.skip, source.skips)], source.unnamed_rows

    @property
    def stays(self) -> Mapping[str, Sequence[Stay]]:
        return self._source.stays

    def read(self, stays: Stays) -> Rows:
        rows = self._source.read(stays)
        return replace(rows, skips=[*map(self._made.skip, rows.skips)])
