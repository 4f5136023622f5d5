"""--mode reproduce: the same metrics to the last bit, what differs by name, and no training on other data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from seqsetvae.cli import MODES
from seqsetvae.settings.declare import Problems
from seqsetvae.settings.resume import resumed
from tests.command import call, command, placeholder_reports, refused, run_of, succeeded


def _reproduce(run: Path, root: Path) -> tuple[int, str, str]:
    with placeholder_reports():
        return call(["reproduce", "--runs", str(run), "--output_root_dir", str(root)])


def test_a_run_gives_the_same_metrics_and_what_differs_is_named(finished, tmp_path):
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
def test_other_data_and_other_runs_are_refused_before_training(finished, tmp_path, key, value, expected):
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


def test_a_setting_that_was_given_with_its_shipped_value_is_still_the_choice_of_the_user(compiled, tmp_path):
    """Of so few stays `min_count` would be 1, unless it is given; --resume takes the same way."""
    words = {"from_random_weights": True, "preset": "small", "unfreeze_after": 0, "max_epochs": 1, "batch_size": 8}
    for name, given, min_count in (("given", {"min_count": 20}, 20), ("left", {}, 1)):
        root = tmp_path / name
        succeeded(command("finetune", data_dir=compiled.path, output_root_dir=root, **words, **given))
        run = run_of(root)
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        assert config["settings"]["min_count"] == 20
        assert config["values"]["min_count"] == min_count
        assert ("min_count" in config["chosen_settings"]) == bool(given)
        _, settings, _ = resumed({"resume": str(run)}, MODES, Problems())
        assert ("min_count" in settings.values.given) == bool(given)
        assert settings.loader.given["batch_size"] == str(run / "config.json")
    status, said, _ = _reproduce(run_of(tmp_path / "given"), tmp_path / "again")
    assert status == 0, said
    again = json.loads((run_of(tmp_path / "again") / "config.json").read_text(encoding="utf-8"))
    assert again["values"]["min_count"] == 20
    config["chosen_settings"] = [20]
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "'chosen_settings' is no list of names" in refused(call(["--resume", str(run)]))
