"""Labels that differ from those of the synthetic stays."""

import csv
from collections.abc import Callable
from pathlib import Path


def changed_labels(old_layout: Path, target: Path, change: Callable[[int, str], str | None]) -> Path:
    """A copy of oc.csv with each label changed, or its line left out for None."""
    with (old_layout.parent / "oc.csv").open(encoding="utf-8") as file:
        rows = [(row["ts_id"], change(int(row["ts_id"]), row["in_hospital_mortality"])) for row in csv.DictReader(file)]
    lines = [f"{stay},{label}" for stay, label in rows if label is not None]
    target.write_text("\n".join(["ts_id,in_hospital_mortality", *lines]) + "\n", encoding="utf-8")
    return target
