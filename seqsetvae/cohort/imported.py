"""What is kept of an import beside its arrays: what was found and decided, its samples, and what was left out."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seqsetvae.cohort.format import SAMPLES, Cohort
from seqsetvae.cohort.manifest import damaged
from seqsetvae.cohort.sidefiles import Labels
from seqsetvae.cohort.tidy import Skip
from seqsetvae.system.errors import counted, cut, shown
from seqsetvae.system.privacy import as_cell, from_cell

IMPORT = "import"  # the key in manifest.json
TIMESTAMPS = "timestamps"  # its `times`, where they are not numbers of a unit
ID_COLUMN, TIME_COLUMN = "id_column", "prediction_time_column"  # its names of columns in the source
END = "end"  # its column or code of the end of stays; None: not known
SAID = ("notes", "found", "decided")  # its sentences
NO_LABEL = "none"  # the name of the label of a cohort without labels
REASON = "reason"  # in samples.parquet, why one is not in the cohort
PREDICTION_TIME = "prediction_time"  # in samples.parquet, and the usual name in a table of labels


@dataclass(frozen=True)
class Imported:
    """What is kept of an import.

    Attributes:
        notes: what was unusual and how it was handled, a line each.
        found: what the source holds, a line each.
        decided: the label, windows and splits, a sentence each.
        record: what was decided, for manifest.json.
        samples: stay_id, id (text), subject_id, split, start and prediction_time (timestamps, or numbers in the
            unit of the source; null = none).
    """

    notes: Sequence[str] = ()
    found: Sequence[str] = ()
    decided: Sequence[str] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    samples: pa.Table | None = None

    def as_plain(self) -> dict[str, Any]:
        """A dictionary for the manifest."""
        return {IMPORT: {**{name: list(getattr(self, name)) for name in SAID}, **self.record}}


def has_dates(cohort: Cohort) -> bool:
    """Whether minutes were computed from timestamps, so that their unit is beyond doubt."""
    return cohort.manifest.get(IMPORT, {}).get("times") == TIMESTAMPS


def write_samples(folder: Path, samples: pa.Table, skips: Sequence[Skip]) -> None:
    """Write samples.parquet, with a column `reason`, unless it is there, for the samples that are not in the cohort."""
    if REASON not in samples.column_names:
        reasons = {skip.stay_id: skip.reason for skip in skips if skip.stay_id is not None}
        at = pc.index_in(samples["stay_id"], pa.array(list(reasons), pa.int64()))
        samples = samples.append_column(REASON, pa.array(list(reasons.values()), pa.string()).take(at))
    pq.write_table(samples, folder / SAMPLES)


def read_samples(cohort: Cohort) -> pa.Table | None:
    """The samples of an imported cohort, those that were left out included; None if it was not imported.

    Raises:
        InputError: the file cannot be read.
    """
    file = cohort.path / SAMPLES
    if SAMPLES not in cohort.manifest["checksums"]:
        return None
    try:
        return pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, str(error)) from None


# ------------------------------------------------------------------ what was left out

SKIPPED = "skipped.csv"
_COLUMNS = ("file", "row", "variable", "reason", "kind")
_KINDS = ("fault", "left out")
MOST_CELLS = 1000  # different faulty cells that are counted apart
OTHER_CELLS = "others"
SHOWN_CELLS = 10
LONGEST_TEXT = 1000  # characters of a name or reason in skipped.csv


@dataclass
class FaultyFiles:
    """Faulty files of a compilation, or stays of tables: how many, of which kinds, and with which outcomes."""

    files: int = 0
    labelled: int = 0  # of the files, those whose stay has a label
    positives: int = 0  # of those, the stays with label 1
    kinds: dict[str, int] = field(default_factory=dict)  # category -> files
    examples: dict[str, str] = field(default_factory=dict)  # category -> the first such fault in words
    unit: str = "file"  # what has the fault and is left out: a file, or a stay where files hold many
    rows: dict[str, int] = field(default_factory=dict)  # category -> faulty rows
    cells: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)  # category -> cell -> (rows, files)
    without_stay: int = 0  # entries of skipped.csv about rows that are of no stay

    def add(self, skip: Skip, labels: Labels) -> None:
        """Count one fault, or all faulty rows of one stay."""
        label = -1 if skip.stay_id is None else labels.get(skip.stay_id, -1)
        self.files += skip.of_stay
        self.without_stay += not skip.of_stay
        self.labelled += label >= 0
        self.positives += label == 1
        for category in dict.fromkeys([skip.category, *(cell.category for cell in skip.cells)]):
            self.kinds[category] = self.kinds.get(category, 0) + skip.of_stay
            beside = f"{skip.file}, which has another fault too"
            self.examples.setdefault(category, str(skip) if category == skip.category else beside)
        for cell, n in skip.cells.items():
            self.rows[cell.category] = self.rows.get(cell.category, 0) + n
            if cell.variable is not None:
                of_kind, name = self.cells.setdefault(cell.category, {}), f"{shown(cell.variable)}: {cell.text!r}"
                name = name if name in of_kind or len(of_kind) < MOST_CELLS else OTHER_CELLS
                rows, files = of_kind.get(name, (0, 0))
                of_kind[name] = rows + n, files + 1

    @property
    def total(self) -> str:
        """`3 faulty stays and 20 rows that are of no stay`"""
        loose = sum(self.rows.get(kind, 0) for kind, files in self.kinds.items() if not files)
        parts = [counted(self.files, f"faulty {self.unit}")] if self.files else []
        return " and ".join([*parts, *([f"{counted(loose, 'row')} of no stay"] if loose else [])])

    def lines(self, examples: bool = True) -> list[str]:
        """A line for each kind of fault, the most frequent first: how many rows and files, and an example file.

        With `examples` also lines for the cells that have it, which begin with spaces.
        """
        lines = []
        for kind, files in sorted(self.kinds.items(), key=lambda item: -max(item[1], self.rows.get(item[0], 0))):
            rows = [counted(self.rows[kind], "row")] if kind in self.rows else []
            line = f"{', '.join([*([counted(files, self.unit)] if files else []), *rows])}: {kind}"
            lines.append(f"{line}, for example {self.examples[kind]}" if examples else line)
            lines += self._cell_lines(kind) if examples and len(self.cells.get(kind, {})) > 1 else []
        return lines

    def _cell_lines(self, kind: str) -> list[str]:
        """The cells with most rows."""
        cells = sorted(self.cells[kind].items(), key=lambda item: (item[0] == OTHER_CELLS, -item[1][0]))
        more = [f"    and {len(cells) - SHOWN_CELLS:,} more"] if len(cells) > SHOWN_CELLS else []
        shown = cells[:SHOWN_CELLS]
        return [f"    {cell}: {counted(n, 'row')} of {counted(files, self.unit)}" for cell, (n, files) in shown] + more

    def share(self, splits: Mapping[str, Mapping[str, int]], label_name: str) -> str:
        """The share of stays that are left out with these files, and their outcome rate beside that of the others."""
        n_kept, labelled, positives = (
            sum(n[key] for n in splits.values()) for key in ("stays", "labelled", "positives")
        )
        n_stays = n_kept + self.files
        share = f" ({self.files / n_stays:.1%})" if n_stays else ""
        left_out = f"{self.files:,} of {counted(n_stays, 'stay')}{share}"
        if not labelled + self.labelled:
            return left_out
        return (
            f"{left_out}; {label_name}: {rate(self.positives, self.labelled)} of those left out, "
            f"{rate(positives, labelled)} of those kept"
        )


def rate(positives: int, labelled: int) -> str:
    """An outcome rate in words."""
    return f"{positives / labelled:.1%} (of {labelled:,} with a label)" if labelled else "unknown"


def write_skipped(folder: Path, skips: Sequence[Skip]) -> None:
    """Write skipped.csv, if anything was left out."""
    if skips:
        with (folder / SKIPPED).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(_COLUMNS)
            for skip in skips:
                texts = cut(skip.variable or "", LONGEST_TEXT), cut(skip.reason, LONGEST_TEXT)
                cells = (skip.file, skip.row, *texts, _KINDS[not skip.is_fault])
                writer.writerow(map(as_cell, cells))


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
            return [_skip(*map(from_cell, line)) for line in lines]
    except (OSError, ValueError, TypeError, csv.Error) as error:  # TypeError: a line has more or fewer cells
        raise damaged(file, str(error)) from None


def _skip(file: str, row: str, variable: str, reason: str, kind: str) -> Skip:
    return Skip(file, reason, int(row) if row else None, variable or None, is_fault=_KINDS.index(kind) == 0)
