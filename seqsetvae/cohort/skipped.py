"""What a compilation leaves out: counted by kind of fault for messages and the manifest, and listed in skipped.csv."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seqsetvae.cohort.manifest import damaged
from seqsetvae.cohort.sidefiles import Labels
from seqsetvae.cohort.tidy import Skip

SKIPPED = "skipped.csv"
_COLUMNS = ("file", "row", "variable", "reason", "kind")
_KINDS = ("fault", "left out")


@dataclass
class FaultyFiles:
    """Faulty files of a compilation, or stays of tables: how many, of which kinds, and with which outcomes."""

    files: int = 0
    labelled: int = 0  # of the files, those whose stay has a label
    positives: int = 0  # of those, the stays with label 1
    kinds: dict[str, int] = field(default_factory=dict)  # category -> files
    examples: dict[str, str] = field(default_factory=dict)  # category -> the first such fault in words
    unit: str = "file"  # what has the fault and is left out: a file, or a stay where files hold many

    def add(self, skip: Skip, labels: Labels) -> None:
        """Count one fault."""
        label = -1 if skip.stay_id is None else labels.get(skip.stay_id, -1)
        self.files += 1
        self.labelled += label >= 0
        self.positives += label == 1
        self.kinds[skip.category] = self.kinds.get(skip.category, 0) + 1
        self.examples.setdefault(skip.category, str(skip))

    def lines(self, examples: bool = True) -> list[str]:
        """One line for each kind of fault, the most frequent first: how many files, and an example file."""
        by_count = sorted(self.kinds.items(), key=lambda item: -item[1])
        named = {kind: f", for example {self.examples[kind]}" if examples else "" for kind in self.kinds}
        return [f"{counted(n, self.unit)}: {kind}{named[kind]}" for kind, n in by_count]

    def share(self, splits: Mapping[str, Mapping[str, int]], label_name: str) -> str:
        """The share of stays that are left out with these files, and their outcome rate beside that of the others."""
        n_kept, labelled, positives = (
            sum(n[key] for n in splits.values()) for key in ("stays", "labelled", "positives")
        )
        n_stays = n_kept + self.files
        share = f" ({self.files / n_stays:.1%})" if n_stays else ""
        return (
            f"{self.files:,} of {counted(n_stays, 'stay')}{share}; {label_name}: "
            f"{_rate(self.positives, self.labelled)} of those left out, {_rate(positives, labelled)} of those kept"
        )


def _rate(positives: int, labelled: int) -> str:
    return f"{positives / labelled:.1%} (of {labelled:,} with a label)" if labelled else "unknown"


def counted(number: int, what: str) -> str:
    """`1 file`, `2 files`"""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def write_skipped(folder: Path, skips: Sequence[Skip]) -> None:
    """Write skipped.csv, if anything was left out."""
    if skips:
        with (folder / SKIPPED).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(_COLUMNS)
            writer.writerows((s.file, s.row, s.variable, s.reason, _KINDS[not s.is_fault]) for s in skips)


def read_skipped(folder: Path) -> list[Skip]:
    """What a compilation left out, from the skipped.csv of a cohort; empty if it left out nothing.

    Raises:
        InputError: the file is not as the compiler wrote it.
    """
    file = folder / SKIPPED
    if not file.is_file():
        return []
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            header, *lines = csv.reader(stream, strict=True)
            if tuple(header) != _COLUMNS:
                raise ValueError(f"its columns are {', '.join(header)}, not {', '.join(_COLUMNS)}")
            return [_skip(*line) for line in lines]
    except (OSError, ValueError, TypeError, csv.Error) as error:  # TypeError: a line has more or fewer cells
        raise damaged(file, str(error)) from None


def _skip(file: str, row: str, variable: str, reason: str, kind: str) -> Skip:
    return Skip(file, reason, int(row) if row else None, variable or None, is_fault=_KINDS.index(kind) == 0)
