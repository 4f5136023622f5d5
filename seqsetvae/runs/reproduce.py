"""Reproduce: run a run again from its config.json, and say which metrics are the same to the last bit."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqsetvae.cli import MODES
from seqsetvae.cli.command_line import Call
from seqsetvae.cli.reproduce import Settings
from seqsetvae.cohort.open import open_data
from seqsetvae.report.run_files import METRICS, NOT_METRICS
from seqsetvae.settings.declare import Problems, changed, declared
from seqsetvae.settings.resume import RESUME, resumed
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import read_json
from seqsetvae.tasks.targets import without_label
from seqsetvae.training.resume import identity
from seqsetvae.training.run_folder import CONFIG


@dataclass(frozen=True)
class Reproduced:
    """Both runs, and the metrics that differ, with the first epoch at which they do."""

    run: Path
    again: Path
    differ: dict[str, str]

    @property
    def exit_status(self) -> int:
        """3: done, but not the same."""
        return 3 if self.differ else 0


def run(settings: Settings) -> Reproduced:
    """Train again, into a new folder, and compare metrics.csv row by row.

    Raises:
        InputError: the data are not those of the run.
    """
    assert settings.runs is not None, "settings are checked before a mode runs"
    folder = settings.runs[0]
    mode, again, _ = resumed({RESUME: str(folder)}, MODES, Problems())
    again = changed(again, output_root_dir=settings.output_root_dir)
    # What a recipe makes of the number of stays has been recorded: as the user's choice it stays.
    again = changed(again, CONFIG, **{name: getattr(again.loader, name) for name in declared(type(again.loader))})
    before = read_json(folder / CONFIG)
    _require_same_data(again, before, folder)
    summary = Call(mode, again).run()
    result = Reproduced(folder, Path(summary.run), differing_metrics(folder, Path(summary.run)))
    _say(result, before, read_json(result.again / CONFIG))
    return result


def _require_same_data(settings: Any, recorded: dict[str, Any], folder: Path) -> None:
    """Raises InputError unless the events are those that the run was trained on; labels are compared afterwards."""
    task = getattr(settings, "task", None)  # pretraining has none
    data = settings.data if task is None or task.label_in_cohort else without_label(settings.data)
    data_hash = open_data(data, settings.run.output_root_dir, needs_labels=False).data_hash
    if data_hash != recorded["cohort"].get("data"):
        raise InputError(
            f"{settings.data.data_dir}: holds other data than {folder} was trained on (hash {data_hash:.12}, recorded "
            f"{recorded['cohort'].get('data')!s:.12}). Put back the data of that run."
        )


def differing_metrics(folder: Path, again: Path) -> dict[str, str]:
    """Metrics whose texts in metrics.csv differ, each with where and how; the two hold numbers to the last bit."""
    old, new = _rows(folder), _rows(again)
    differences = {} if len(old) == len(new) else {"epochs": f"{len(old)} were {len(new)} now"}
    for before, now in zip(old, new, strict=False):
        for name in before.keys() | now.keys():
            if before.get(name) != now.get(name):
                differences.setdefault(
                    name, f"first in epoch {before['epoch']}: was {before.get(name)}, now {now.get(name)}"
                )
    return dict(sorted(differences.items()))


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / METRICS).open(encoding="utf-8", newline="") as file:
        return [
            {name: row[name] for name in row if name not in NOT_METRICS - {"epoch"}} for row in csv.DictReader(file)
        ]


def _say(result: Reproduced, before: dict[str, Any], current: dict[str, Any]) -> None:
    names = [name for name in (_rows(result.run) or [{}])[0] if name != "epoch"]
    same = [name for name in names if name not in result.differ]
    print(f"\nThe run {result.run} again, in {result.again}")
    print(f"  the same to the last bit in every epoch: {', '.join(same) or 'nothing'}")
    for name, how in result.differ.items():
        print(f"  {name} differs, {how}")
    if result.differ:
        one, other = (identity(run) | run["versions"] | {"values": run["values"]} for run in (before, current))
        inputs = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
        print(
            f"  other inputs, settings or versions: {', '.join(sorted(inputs)) or 'none; another computer or threads?'}"
        )
