"""What a source hands to the compiler, and the flags that sources share."""

import argparse
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from seqsetvae.cohort.imported import Imported
from seqsetvae.cohort.sidefiles import Labels
from seqsetvae.cohort.tidy import Source


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
