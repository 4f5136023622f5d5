"""What a source hands to the compiler, and the flags that sources share."""

import argparse
import math
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from seqsetvae.cohort.format import is_compiled, open_cohort
from seqsetvae.cohort.imported import Imported
from seqsetvae.cohort.sidefiles import DEFAULT_WIDTH, Embeddings, Labels, Stats, read_embeddings, read_stats
from seqsetvae.cohort.tidy import Source

_SIDE_FILES = {  # flag: (older name of the flag, what it takes)
    "--stats": ("--params_map_path", "STATS_CSV"),
    "--labels": ("--label_path", "OC_CSV"),
    "--embeddings": ("--embeddings_path", "CACHED_CSV"),
}


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Stays, labels and side tables of a source; the names are those of the arguments of compile_cohort."""

    source: Source
    label_name: str
    labels: Labels | None  # 0 or 1 by stay number
    stats: Stats | None  # None: computed from the training split
    embeddings: Embeddings | None  # None: generated from the names
    embedding_dim: int  # width of generated embeddings
    imported: Imported | None = None  # what the cohort keeps beside its arrays


def stats_of(path: Path) -> Stats:
    """Statistics of a stats.csv, or those that an earlier cohort was normalised with."""
    if not is_compiled(path):
        return read_stats(path)
    cohort = open_cohort(path)
    pairs = zip(cohort.vocabulary, cohort.mean.tolist(), cohort.std.tolist(), strict=True)
    return {name: (mean, std) for name, mean, std in pairs if not math.isnan(mean)}


def embeddings_of(path: Path | None, width: int) -> tuple[Embeddings | None, int]:
    """Vectors of a cached.csv or of an earlier cohort, and the width of generated ones where there are none."""
    if path is None:
        return None, width
    if not is_compiled(path):
        return read_embeddings(path), width
    cohort = open_cohort(path)
    if cohort.embeddings_generated:  # the same in every cohort, for new variables too
        return None, cohort.embeddings.shape[1]
    return Embeddings({name: row for row, name in enumerate(cohort.vocabulary)}, cohort.embeddings), width


def add_side_file(parser: ArgumentParser, flag: str, text: str) -> None:
    """--stats, --labels or --embeddings, with its help text, which says what is used without it."""
    older, metavar = _SIDE_FILES[flag]
    parser.add_argument(flag, older, type=Path, metavar=metavar, help=text)


def add_common(parser: ArgumentParser) -> None:
    """OUT and the flags that every source has."""
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder for the compiled cohort")
    add_compile_flags(parser)


def add_compile_flags(parser: ArgumentParser) -> None:
    """The flags of a compilation that every source has."""
    width = f"width of vectors generated from the names (default {DEFAULT_WIDTH})"
    parser.add_argument("--embedding_dim", type=_positive, metavar="I", help=width)
    parser.add_argument("--skip_bad", action="store_true", help="leave faulty files out, listed in OUT/skipped.csv")
    parser.add_argument("--jobs", type=_positive, metavar="N", help="threads (default: one per core)")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number
