"""Shards: parts of one folder that were compiled side by side, by a job each, and are joined into one cohort.

A shard is a cohort of some of the stays; `data.py compile ... --shard I/N` makes one. `data.py join` streams all of
them through the compiler, so that the cohort is the one that a single compilation gives, to the last bit, statistics
included, and neither step holds more than a few hundred stays in memory.
"""

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqsetvae.cohort.format import Cohort, Split, is_compiled, open_cohort, ranges
from seqsetvae.cohort.imported import read_skipped
from seqsetvae.cohort.sidefiles import LabelTable
from seqsetvae.cohort.sources.opened import Opened
from seqsetvae.cohort.tidy import SPLITS, Rows, Skip, Source, Stay, Stays, UnnamedRows
from seqsetvae.errors import InputError

HELP = "Join the shards that `compile --shard` made into one compiled cohort."
_DESCRIPTION = re.compile(r"shard (\d+) of (\d+) of (.*)", re.DOTALL)


class Part(NamedTuple):
    """One of several parts of the stays."""

    number: int  # from 1
    of: int


def part(text: str) -> Part:
    """The part that a flag such as 3/10 names. Raises ArgumentTypeError."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    found = Part(*map(int, match.groups())) if match else Part(0, 0)
    if not 1 <= found.number <= found.of:
        raise ArgumentTypeError(f"{text!r} is not a part such as 3/10, from 1/N to N/N")
    return found


class PartOf:
    """Some of the stays of a source, those of one part; see the Source protocol."""

    def __init__(self, source: Source, of: Part) -> None:
        """Parts are runs of stays in the order of the source, about equally many of each split."""
        self.read = source.read
        self.description = f"shard {of.number} of {of.of} of {source.description}"
        own = {
            split: stays[len(stays) * (of.number - 1) // of.of : len(stays) * of.number // of.of]
            for split, stays in source.stays.items()
        }
        self.stays: Mapping[str, Sequence[Stay]] = {split: stays for split, stays in own.items() if len(stays)}
        self.skips = source.skips if of.number == 1 else []  # of the listing, which every part sees
        self.unnamed_rows = source.unnamed_rows


def as_shard(opened: Opened, of: Part) -> Opened:
    """One part of what a source hands over."""
    return replace(opened, source=PartOf(opened.source, of), beside={})


# ------------------------------------------------------------------ joining


def add_flags(parser: ArgumentParser) -> None:
    """The flags of `data.py join`."""
    parser.add_argument("shards", type=Path, metavar="SHARDS", help="folder that holds the folders of all shards")


def open_source(arguments: Namespace) -> Opened:
    """The stays and labels of all shards. Raises InputError if one is missing, twice, or of other data."""
    source = Shards(arguments.shards)
    return Opened(source=source, label_name=source.cohorts[0].label_name, labels=source.labels())


class Shards:
    """The stays of all shards in the order of their numbers; see the Source protocol."""

    def __init__(self, folder: Path) -> None:
        """Open the shards below `folder`, and check that they are all parts of one whole."""
        found = sorted(path for path in folder.iterdir() if is_compiled(path)) if folder.is_dir() else []
        cohorts = [open_cohort(path) for path in found]
        parts = [_part_of(cohort) for cohort in cohorts]
        _require_all(folder, parts, cohorts)
        order = sorted(range(len(parts)), key=lambda at: parts[at][0])
        self.cohorts = [cohorts[at] for at in order]
        self.description = parts[0][2]
        self.skips: list[Skip] = [skip for cohort in self.cohorts for skip in read_skipped(cohort.path)]
        self.unnamed_rows = UnnamedRows()
        self._pieces = [
            (cohort, cohort.splits[split]) for split in SPLITS for cohort in self.cohorts if split in cohort.splits
        ]
        splits = [split for _, split in self._pieces]
        self._start = np.cumsum([0, *(split.n_stays for split in splits)])  # the place of the first stay of each piece
        stays = Stays(
            np.concatenate([split.stay_id for split in splits]),
            lambda at: str(splits[int(np.searchsorted(self._start, at, side="right")) - 1].folder),
            subject=np.concatenate([split.subject_id for split in splits]),
            prediction_minute=np.concatenate([split.prediction_minute for split in splits]),
            n_rows=np.concatenate([np.diff(split.set_offset[split.stay_offset]) for split in splits]),
        )
        piece = np.repeat(np.arange(len(splits)), np.diff(self._start))
        own = {name: [at for at, split in enumerate(splits) if split.name == name] for name in SPLITS}
        self.stays = {name: stays[np.isin(piece, places)] for name, places in own.items() if places}

    def labels(self) -> LabelTable:
        """Those of all stays that have one."""
        splits = [split for cohort in self.cohorts for split in cohort.splits.values()]
        stay, label = (np.concatenate([getattr(split, name) for split in splits]) for name in ("stay_id", "label"))
        order = np.argsort(stay[label >= 0], kind="stable")
        return LabelTable(stay[label >= 0][order], label[label >= 0][order])

    def read(self, stays: Stays) -> Rows:
        """The rows of these stays, each set with a number of its own, so that sets remain as they are."""
        first, end = int(stays.place[0]), int(stays.place[-1]) + 1
        assert end - first == len(stays), "the compiler reads runs of stays"
        pieces = [
            (cohort, split, slice(max(first - start, 0), min(end, stop) - start))
            for (cohort, split), start, stop in zip(self._pieces, self._start, self._start[1:], strict=False)
            if start < end and first < stop
        ]
        names = sorted({name for cohort, _, _ in pieces for name in cohort.vocabulary})
        tables = [_rows(cohort, split, some, names) for cohort, split, some in pieces]
        variable, value, minute, set_index, n_rows = (np.concatenate(column) for column in zip(*tables, strict=True))
        has_index = np.ones(len(stays), dtype=bool)
        return Rows(stays, n_rows, names, variable, value, minute, set_index, has_index)


def _rows(cohort: Cohort, split: Split, stays: slice, names: Sequence[str]) -> tuple[NDArray, ...]:
    """(variable, value, minute, set_index) of each event of some stays of a shard, and the events of each stay."""
    sets = split.stay_offset[stays.start : stays.stop + 1]
    events = split.set_offset[sets[0] : sets[-1] + 1]
    n_events, n_sets = np.diff(events), np.diff(sets)
    code = np.searchsorted(np.array(names), np.array(cohort.vocabulary)).astype(np.int32)
    return (
        code[split.variable[events[0] : events[-1]]],
        np.array(split.value[events[0] : events[-1]]),
        np.repeat(split.minute[sets[0] : sets[-1]], n_events),
        np.repeat(ranges(np.zeros_like(n_sets), n_sets).astype(np.float64), n_events),
        np.diff(split.set_offset[sets]),
    )


def _part_of(cohort: Cohort) -> tuple[int, int, str]:
    """(number, of how many, of what data) of a shard. Raises InputError if the cohort is none."""
    match = _DESCRIPTION.fullmatch(str(cohort.manifest["source"]))
    if match is None:
        raise InputError(f"{cohort.path}: a cohort that is no shard; `data.py compile --shard I/N` makes shards.")
    return int(match[1]), int(match[2]), match[3]


def _require_all(folder: Path, parts: Sequence[tuple[int, int, str]], cohorts: Sequence[Cohort]) -> None:
    """Raises InputError unless the shards are all parts of one whole, each once, with one label."""
    if not parts:
        raise InputError(f"{folder}: holds no shards, which are folders that `data.py compile --shard I/N` made.")
    for what, values in (("data", [text for _, _, text in parts]), ("labels", [each.label_name for each in cohorts])):
        others = [at for at, value in enumerate(values) if value != values[0]]
        if others:
            raise InputError(
                f"{folder}: shards of different {what}: {cohorts[0].path.name} of {values[0]}, "
                f"{cohorts[others[0]].path.name} of {values[others[0]]}."
            )
    numbers, counts = sorted(number for number, _, _ in parts), {of for _, of, _ in parts}
    if len(counts) > 1 or numbers != list(range(1, max(counts) + 1)):
        missing = sorted(set(range(1, max(counts) + 1)) - set(numbers))[:20]
        raise InputError(
            f"{folder}: not one shard of each number: it has "
            + ", ".join(f"{number}/{of}" for number, of, _ in sorted(parts)[:20])
            + (f"; missing: {', '.join(map(str, missing))}" if missing else "")
            + ". A shard without any stay has no folder: use fewer shards."
        )
