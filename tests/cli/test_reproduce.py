"""--mode reproduce: the same metrics to the last bit, what differs by name, and no training on other data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.command import call, placeholder_reports


def _reproduce(run: Path, root: Path) -> tuple[int, str, str]:
    with placeholder_reports():
        return call(["reproduce", "--runs", str(run), "--output_root_dir", str(root)])


def test_a_run_gives_the_same_metrics_and_what_differs_is_named(finished: tuple[Path, str], tmp_path: Path) -> None:
    """Of two metrics one was changed afterwards."""
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    header, *rows = (run / "metrics.csv").read_text(encoding="utf-8").splitlines()
    at = header.split(",").index("val_auprc")
    cells = rows[1].split(",")
    was, cells[at] = cells[at], cells[at][:-1] + str((int(cells[at][-1]) + 1) % 10)
    (run / "metrics.csv").write_text("\n".join([header, rows[0], ",".join(cells), *rows[2:], ""]), encoding="utf-8")
    status, said, errors = _reproduce(run, tmp_path)
    assert (status, errors) == (3, "")
    (same,) = [line for line in said.splitlines() if "the same to the last bit in every epoch" in line]
    assert {"train_loss", "val_loss", "val_auc"} <= set(same.partition(": ")[2].split(", "))
    assert "val_auprc" not in same
    assert f"val_auprc differs, first in epoch 2: was {cells[at]}, now {was}" in said
    assert "other inputs, settings or versions: none" in said
    (again,) = tmp_path.glob("finetune-*")
    assert "val_auprc" in (again / "metrics.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("data", "0" * 64, "holds other data than "),
        ("checkpoint", None, "is of mode 'evaluate'; only runs of finetune"),
    ],
)
def test_other_data_and_other_runs_are_refused_before_training(
    finished: tuple[Path, str], tmp_path: Path, key: str, value: str | None, expected: str
) -> None:
    config = json.loads((finished[0] / "config.json").read_text(encoding="utf-8"))
    if value is not None:
        config["cohort"][key] = value
    else:
        config = {"settings": {"mode": "evaluate"}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    status, _, errors = _reproduce(tmp_path / "run", tmp_path)
    assert (status, expected in errors) == (2, True), errors
    assert not list(tmp_path.glob("finetune-*"))
