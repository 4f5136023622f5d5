"""A mapping of variables between hospitals: the name here, the name in the cohort, and how the unit changes."""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqsetvae.cohort.names import cell_fault, columns_are, trimmed
from seqsetvae.errors import InputError

REQUIRED = ("name", "target")
OPTIONAL = {"factor": 1.0, "offset": 0.0}  # and their values where a cell is empty or the column is missing
SHOWN = 8  # names in a note


@dataclass(frozen=True)
class VariableMap:
    """value in the cohort = value here · factor + offset, under the name `target`. Other variables stay as they are."""

    file: str = ""
    entries: dict[str, tuple[str, float, float]] = field(default_factory=dict)  # name -> (target, factor, offset)

    def target(self, name: str) -> str:
        """The name of a variable in the cohort."""
        return self.entries[name][0] if name in self.entries else name

    def unit(self, name: str) -> tuple[float, float]:
        """(factor, offset) of a variable."""
        return self.entries[name][1:] if name in self.entries else (1.0, 0.0)

    def notes(self, seen: Iterable[str]) -> list[str]:
        """Which of its names the data do not have, in words."""
        absent = sorted(self.entries.keys() - set(seen))
        shown = ", ".join(map(repr, absent[:SHOWN])) + (", ..." if len(absent) > SHOWN else "")
        return [f"{len(absent)} of {len(self.entries)} names of {self.file} do not occur: {shown}"] if absent else []

    def as_plain(self) -> list[dict[str, Any]]:
        """For the manifest."""
        rows = self.entries.items()
        return [{"name": name, "target": to, "factor": by, "offset": plus} for name, (to, by, plus) in rows]


def read_variable_map(path: Path | None) -> VariableMap:
    """The mapping in a CSV file with the columns name, target, and perhaps factor (1) and offset (0).

    Raises:
        InputError: not readable, a column is missing, a name is empty or repeated, a factor or offset is not usable.
    """
    if path is None:
        return VariableMap()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            there = reader.fieldnames = [trimmed(name).lower() for name in reader.fieldnames or []]
            missing = [column for column in REQUIRED if column not in there]
            if missing:
                raise InputError(f"{path}: has no column {', '.join(missing)}. {columns_are(there)}")
            twice = [column for column in (*REQUIRED, *OPTIONAL) if there.count(column) > 1]
            if twice:
                raise InputError(f"{path}: column {twice[0]} occurs twice. {columns_are(there)}")
            entries: dict[str, tuple[str, float, float]] = {}
            for row in reader:
                name, entry = _entry(f"{path}, line {reader.line_num}", row)
                if entries.setdefault(name, entry) != entry:
                    raise InputError(f"{path}, line {reader.line_num}: name {name!r} is given twice. Keep one line.")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a CSV file in UTF-8: {error}") from None
    return VariableMap(str(path), entries)


def _entry(where: str, row: dict[str | None, Any]) -> tuple[str, tuple[str, float, float]]:
    """One line. Raises InputError."""
    if None in row or None in row.values():
        raise InputError(f"{where}: more or fewer cells than the header.")
    name, target = trimmed(row["name"]), trimmed(row["target"])
    for why in filter(None, map(cell_fault, (name, target))):
        raise InputError(f"{where}: the cell {why}")
    if not name or not target:
        empty = "target" if name else "name"
        raise InputError(f"{where}: the {empty} is empty. To drop a variable, use --leave_out.")
    factor, offset = (_number(where, column, row.get(column, "")) for column in OPTIONAL)
    if factor == 0:
        raise InputError(f"{where}: factor is 0, which would make all values equal.")
    return name, (target, factor, offset)


def _number(where: str, column: str, text: str) -> float:
    try:
        number = float(text) if text.strip() else OPTIONAL[column]
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {column} is {text!r}; it must be a finite number.")
    return number
