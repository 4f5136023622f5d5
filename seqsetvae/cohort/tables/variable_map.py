"""A mapping of variables between hospitals: the name here, the name in the cohort, and how the unit changes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqsetvae.cohort.names import trimmed
from seqsetvae.cohort.tables.read import read_side_table
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
    columns, _ = read_side_table(path, REQUIRED, tuple(OPTIONAL), fold=lambda name: trimmed(name).lower())
    texts = {name: [trimmed(cell or "") for cell in cells.to_pylist()] for name, cells in columns.items()}
    entries: dict[str, tuple[str, float, float]] = {}
    for row, (name, target) in enumerate(zip(*(texts[name] for name in REQUIRED), strict=True)):
        where = f"{path}, row {row} (counted from 0)"
        if not name or not target:
            empty = "target" if name else "name"
            raise InputError(f"{where}: the {empty} is empty. To drop a variable, use --leave_out.")
        factor, offset = (_number(where, of, texts[of][row] if of in texts else "") for of in OPTIONAL)
        if factor == 0:
            raise InputError(f"{where}: factor is 0, which would make all values equal.")
        if entries.setdefault(name, (target, factor, offset)) != (target, factor, offset):
            raise InputError(f"{where}: name {name!r} is given twice. Keep one row.")
    return VariableMap(str(path), entries)


def _number(where: str, column: str, text: str) -> float:
    try:
        number = float(text) if text else OPTIONAL[column]
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {column} is {text!r}; it must be a finite number.")
    return number
