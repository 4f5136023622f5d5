"""Cohorts that were compiled side by side, by a job each, and are joined into one.

Either they are shards, which `data.py compile ... --shard I/N` made of runs of stays of one folder, or cohorts of whole
subjects each, such as `data.py table` made of one of many files. `data.py join` streams all of them through the
compiler, so that neither step holds more than some stays in memory, and the result is the cohort that a single
compilation gives, to the last bit, statistics included.
"""

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seqsetvae.cohort.format import Cohort, Split, is_compiled, join_ranges, open_cohort
from seqsetvae.cohort.imported import IMPORT, SAID, Imported, read_samples, read_skipped
from seqsetvae.cohort.sidefiles import LabelTable
from seqsetvae.cohort.sources.opened import Opened
from seqsetvae.cohort.tidy import SPLITS, Rows, Skip, Source, Stay, Stays, UnnamedRows, repeated
from seqsetvae.system.errors import InputError, counted

HELP = "Join cohorts that were compiled side by side, or the shards of `compile --shard`, into one."
_DESCRIPTION = re.compile(r"shard (\d+) of (\d+) of (.*)", re.DOTALL)


class Part(NamedTuple):
    """One of several parts of the stays."""

    number: int  # from 1
    of: int


def part(text: str) -> Part:
    """The part that a flag such as 3/10 names. Raises ArgumentTypeError."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    part_of = Part(*map(int, match.groups())) if match else Part(0, 0)
    if not 1 <= part_of.number <= part_of.of:
        raise ArgumentTypeError(f"{text!r} is not a part such as 3/10, from 1/N to N/N")
    return part_of


class SourcePart:
    """Some of the stays of a source, those of one part; see the Source protocol."""

    def __init__(self, source: Source, part: Part) -> None:
        """Parts are runs of stays in the order of the source, about equally many of each split."""
        self.read = source.read
        self.description = f"shard {part.number} of {part.of} of {source.description}"
        own = {
            split: stays[len(stays) * (part.number - 1) // part.of : len(stays) * part.number // part.of]
            for split, stays in source.stays.items()
        }
        self.stays: Mapping[str, Sequence[Stay]] = {split: stays for split, stays in own.items() if len(stays)}
        self.skips = source.skips if part.number == 1 else []  # of the listing, which every part sees
        self.unnamed_rows = source.unnamed_rows


def as_shard(opened: Opened, part: Part) -> Opened:
    """One part of what a source opened."""
    return replace(opened, source=SourcePart(opened.source, part), beside={})


# ------------------------------------------------------------------ joining


def add_flags(parser: ArgumentParser) -> None:
    """The flags of `data.py join`."""
    parser.add_argument("shards", type=Path, metavar="SHARDS", help="folder that holds the folders of all cohorts")


def open_source(arguments: Namespace) -> Opened:
    """The stays and labels of all cohorts. Raises InputError if one is missing, twice, or of other data."""
    source = Joined(arguments.shards)
    label_name = source.cohorts[0].label_name
    return Opened(source=source, label_name=label_name, labels=source.labels(), imported=source.imported())


class Joined:
    """The stays of shards in the order of the shards, of cohorts by their numbers; see the Source protocol."""

    def __init__(self, folder: Path) -> None:
        """Open the cohorts below `folder`, and check that they are parts of one whole."""
        folders = sorted(path for path in folder.iterdir() if is_compiled(path)) if folder.is_dir() else []
        self.cohorts = [open_cohort(path) for path in folders]
        if not folders:
            raise InputError(f"{folder}: holds no shards, and no other folders of compiled cohorts.")
        _require_one("labels", self.cohorts, [each.label_name for each in self.cohorts])
        are_shards = any(_DESCRIPTION.fullmatch(cohort.manifest["source"]) for cohort in self.cohorts)
        if are_shards:
            parts = list(map(_part_of, self.cohorts))
            _require_one("data", self.cohorts, [text for _, _, text in parts])
            _require_each_once(folder, parts)
            self.cohorts = [self.cohorts[at] for at in sorted(range(len(parts)), key=lambda at: parts[at][0])]
            self.description = parts[0][2]
        else:
            decisions = list(map(_decisions, self.cohorts))
            for name in dict.fromkeys(chain.from_iterable(decisions)):
                _require_one(name, self.cohorts, [decision.get(name) for decision in decisions])
            _refuse_splits_of_all(self.cohorts[0])
            _require_whole_subjects(self.cohorts)
            self.description = f"{len(folders)} cohorts, the first of {self.cohorts[0].manifest['source']}"
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
        of_split = np.repeat([split.name for split in splits], np.diff(self._start))
        self.stays = {name: stays[np.flatnonzero(of_split == name)] for name in SPLITS if name in of_split}
        if not are_shards:
            self.stays = {name: some[np.argsort(some.stay_id)] for name, some in self.stays.items()}

    def labels(self) -> LabelTable:
        """The labels of all stays that have one."""
        splits = [split for cohort in self.cohorts for split in cohort.splits.values()]
        stay, label = (np.concatenate([getattr(split, name) for split in splits]) for name in ("stay_id", "label"))
        order = np.argsort(stay[label >= 0], kind="stable")
        return LabelTable(stay[label >= 0][order], label[label >= 0][order])

    def imported(self) -> Imported | None:
        """What the cohorts keep of their imports; None if they were not imported."""
        tables = [table for table in map(read_samples, self.cohorts) if table is not None]
        if len(tables) < len(self.cohorts):
            return None
        notes = [f"{cohort.path.name}: {note}" for cohort in self.cohorts for note in cohort.manifest[IMPORT]["notes"]]
        samples = pa.concat_tables(tables).sort_by("stay_id")
        return Imported(notes, record=_decisions(self.cohorts[0]), samples=samples)

    def read(self, stays: Stays) -> Rows:
        """The rows of these stays, each set with a number of its own, so that sets remain as they are."""
        piece = np.searchsorted(self._start, stays.place, side="right") - 1
        own = {at: stays.place[piece == at] - self._start[at] for at in np.unique(piece).tolist()}
        names = sorted({name for at in own for name in self._pieces[at][0].vocabulary})
        tables = [_rows(self._pieces[at], some, names) for at, some in own.items()]
        variable, value, minute, set_index, n_rows = (np.concatenate(column) for column in zip(*tables, strict=True))
        place = np.argsort(np.argsort(piece, kind="stable"))  # of each stay among those that were read
        rows = join_ranges((np.cumsum(n_rows) - n_rows)[place], n_rows[place])
        columns = (names, variable[rows], value[rows], minute[rows], set_index[rows])
        return Rows(stays, n_rows[place], *columns, np.ones(len(stays), dtype=bool))


def _rows(piece: tuple[Cohort, Split], stays: NDArray[np.int64], names: Sequence[str]) -> tuple[NDArray, ...]:
    """(variable, value, minute, set_index) of each event of some stays of a cohort, and the events of each stay."""
    cohort, split = piece
    first_set, n_sets = split.stay_offset[stays], split.stay_offset[stays + 1] - split.stay_offset[stays]
    sets = join_ranges(first_set, n_sets)
    n_events = split.set_offset[sets + 1] - split.set_offset[sets]
    events = join_ranges(split.set_offset[sets], n_events)
    code = np.searchsorted(np.array(names), np.array(cohort.vocabulary)).astype(np.int32)
    return (
        code[split.variable[events]],
        split.value[events],
        np.repeat(split.minute[sets], n_events),
        np.repeat(join_ranges(np.zeros_like(n_sets), n_sets).astype(np.float64), n_events),
        split.set_offset[first_set + n_sets] - split.set_offset[first_set],
    )


def _part_of(cohort: Cohort) -> tuple[int, int, str]:
    """(number, of how many, of what data) of a shard. Raises InputError if the cohort is none."""
    match = _DESCRIPTION.fullmatch(str(cohort.manifest["source"]))
    if match is None:
        made = "which `data.py compile --shard I/N` made"
        raise InputError(f"{cohort.path}: a cohort that is no shard, beside shards, {made}.")
    return int(match[1]), int(match[2]), match[3]


def _decisions(cohort: Cohort) -> dict[str, Any]:
    """What was decided when the cohort was imported, without the sentences."""
    return {name: value for name, value in cohort.manifest.get(IMPORT, {}).items() if name not in SAID}


def _require_one(name: str, cohorts: Sequence[Cohort], values: Sequence[Any]) -> None:
    """Raises InputError unless the values of all cohorts are equal."""
    others = [at for at, value in enumerate(values) if value != values[0]]
    if others:
        raise InputError(
            f"{cohorts[0].path.parent}: cohorts of different {name}: {cohorts[0].path.name} of {values[0]}, "
            f"{cohorts[others[0]].path.name} of {values[others[0]]}."
        )


def _refuse_splits_of_all(cohort: Cohort) -> None:
    """Raises InputError if a cohort was divided in a way that is another one for each part of the data."""
    how = str(_decisions(cohort).get("splits", ""))
    if how.startswith(("by time", "whole values")):
        raise InputError(
            f"{cohort.path}: its splits are {how}: other parts of the data were divided at other times, or have the "
            "same values in other splits. Name the split of each stay in a column (--split_column)."
        )


def _require_whole_subjects(cohorts: Sequence[Cohort]) -> None:
    """Raises InputError if a stay or a subject is in two cohorts."""
    for kind, name in (("stay", "stay_id"), ("subject", "subject_id")):
        numbers = [
            np.unique(np.concatenate([getattr(split, name) for split in cohort.splits.values()])) for cohort in cohorts
        ]
        twice = repeated(np.concatenate(numbers))
        if len(twice):
            places = [cohort.path.name for cohort, own in zip(cohorts, numbers, strict=True) if twice[0] in own]
            raise InputError(
                f"{cohorts[0].path.parent}: {counted(len(twice), kind)} in more than one cohort, such as {twice[0]} in "
                f"{' and '.join(places[:2])}. All rows of a subject must be in one of them. Ids that are texts, and "
                "several predictions of an id, are numbered anew in each: write ids as whole numbers, with one "
                "prediction each, or compile all tables at once."
            )


def _require_each_once(folder: Path, parts: Sequence[tuple[int, int, str]]) -> None:
    """Raises InputError unless the shards are all parts of one whole, each once."""
    numbers, counts = sorted(number for number, _, _ in parts), {of for _, of, _ in parts}
    if len(counts) > 1 or numbers != list(range(1, max(counts) + 1)):
        missing = sorted(set(range(1, max(counts) + 1)) - set(numbers))[:20]
        raise InputError(
            f"{folder}: not one shard of each number: it has "
            + ", ".join(f"{number}/{of}" for number, of, _ in sorted(parts)[:20])
            + (f"; missing: {', '.join(map(str, missing))}" if missing else "")
            + ". A shard without any stay has no folder: use fewer shards."
        )
