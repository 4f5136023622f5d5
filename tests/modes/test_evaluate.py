"""--mode evaluate: the metrics of the run, on its data or others, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from seqsetvae.cohort import Cohort
from tests.command import command, finetune, rows_of, run_of


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_evaluate_gives_the_best_val_auc_for_any_batch_size(
    finished: tuple[Path, str], compiled: Cohort, batch_size: int
) -> None:
    run, _ = finished
    status, said, _ = command("evaluate", ckpt=run, split="valid", batch_size=batch_size, output_root_dir=run.parent)
    best = max(rows_of(run), key=lambda row: float(row["val_auc"]))
    assert status == 0
    assert f"AUROC {float(best['val_auc']):.4f}\n  AUPRC {float(best['val_auprc']):.4f}\n" in said
    assert "split valid: 20 stays" in said


def test_evaluate_reads_a_checkpoint_and_other_data_too(finished: tuple[Path, str], compiled: Cohort) -> None:
    run, _ = finished
    _, said, _ = command("evaluate", ckpt=run / "checkpoints" / "last.ckpt", split="test", data_dir=compiled.path)
    label = compiled.split("test").label
    assert f"split test: {len(label)} stays, {int((label == 1).sum())} positive" in said


def test_evaluate_shortens_stays_as_the_run_did(pretrained: Path, compiled: Cohort, tmp_path: Path) -> None:
    assert finetune(pretrained, compiled.path, tmp_path, max_sets=3, max_epochs=1)[0] == 0
    run = run_of(tmp_path)
    _, said, _ = command("evaluate", ckpt=run, split="valid")
    assert "Stays shortened to their last 3 sets" in said
    assert f"AUROC {float(rows_of(run)[0]['val_auc']):.4f}\n" in said
    status, _, errors = command("evaluate", ckpt=run, split="valid", max_sets=4)
    assert status == 2
    assert "max_sets: received 4" in errors


def test_evaluate_uses_the_label_of_the_run(pretrained: Path, old_layout: Path, tmp_path: Path) -> None:
    """A second label in oc.csv: evaluating on the old layout takes the run's, and another one is refused."""
    processed = tmp_path / "processed"
    shutil.copytree(old_layout.parent, processed)
    with (processed / "oc.csv").open(newline="") as file:
        rows = [(row["ts_id"], row["in_hospital_mortality"]) for row in csv.DictReader(file)]
    lines = ["ts_id,in_hospital_mortality,survived", *(f"{stay},{died},{1 - int(died)}" for stay, died in rows)]
    (processed / "oc.csv").write_text("\n".join(lines) + "\n")
    status, printed, _ = finetune(pretrained, processed, tmp_path / "runs", label_name="survived")
    assert status == 0
    run = next((tmp_path / "runs").glob("finetune-*"))
    flags = {"ckpt": run, "split": "valid", "data_dir": processed, "output_root_dir": tmp_path / "runs"}
    status, printed, _ = command("evaluate", **flags)
    assert status == 0
    best = json.loads((run / "summary.json").read_text())["best"]["val_auc"]
    assert f"AUROC {best:.4f}" in printed
    status, _, errors = command("evaluate", **flags, label_name="in_hospital_mortality")
    assert status == 2
    assert "was trained to predict 'survived'" in errors


def test_nan_scores_are_never_ranked(finished: tuple[Path, str], tmp_path: Path) -> None:
    content = torch.load(finished[0] / "checkpoints" / "best.ckpt", weights_only=True)
    content["state_dict"]["head.net.0.weight"].fill_(float("nan"))
    torch.save(content, tmp_path / "broken.ckpt")
    data = json.loads((finished[0] / "config.json").read_text(encoding="utf-8"))["cohort"]["path"]
    status, said, errors = command("evaluate", ckpt=tmp_path / "broken.ckpt", split="valid", data_dir=data)
    assert status == 1
    assert "NaN or infinite for stay" in errors
    assert "AUROC" not in said


def test_other_statistics_than_those_of_training_are_an_error(
    finished: tuple[Path, str], old_layout: Path, tmp_path: Path
) -> None:
    """Evaluating on data with another stats.csv names the variables that mean something else there."""
    stats = (old_layout.parent / "stats.csv").read_text(encoding="utf-8").splitlines()
    changed = [line if not line.startswith("lactate,") else "lactate,2.5,0.8" for line in stats]
    (tmp_path / "stats.csv").write_text("\n".join(changed) + "\n", encoding="utf-8")
    status, _, errors = command(
        "evaluate",
        ckpt=finished[0],
        split="valid",
        data_dir=old_layout,
        params_map_path=tmp_path / "stats.csv",
        output_root_dir=tmp_path,
    )
    assert status == 2
    assert "was trained with another mean, std or embedding of 1 variables: lactate." in errors


def test_a_pretrained_checkpoint_cannot_be_evaluated(pretrained: Path, compiled: Cohort) -> None:
    status, _, errors = command("evaluate", ckpt=pretrained, split="valid", data_dir=compiled.path)
    assert status == 2
    assert "not a checkpoint of a fine-tuning run" in errors


def test_a_folder_that_is_not_a_run_folder_is_an_error(tmp_path: Path) -> None:
    status, _, errors = command("evaluate", ckpt=tmp_path, split="valid")
    assert status == 2
    assert "best.ckpt" in errors


def test_a_checkpoint_without_its_run_needs_data_dir(finished: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(finished[0] / "checkpoints" / "best.ckpt", tmp_path / "checkpoints")
    status, _, errors = command("evaluate", ckpt=tmp_path, split="valid")
    assert status == 2
    assert "pass --data_dir" in errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json: damaged, it is not JSON"),
        ("[]", "config.json: damaged, it holds a list and not an object"),
        ("{}", "config.json: does not record the data of the run; pass --data_dir"),
        ('{"cohort": 3}', "config.json: does not record the data"),
        ('{"cohort": {"path": 3}}', "config.json: does not record the data"),
        (b"\xff", "config.json: damaged, it is not JSON"),
    ],
)
def test_a_config_json_that_cannot_be_used_is_one_error(
    finished: tuple[Path, str], tmp_path: Path, text: str | bytes, message: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    (run / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    status, _, errors = command("evaluate", ckpt=run, split="test", output_root_dir=tmp_path)
    assert status == 2
    assert message in errors
    assert errors.count("\n") == 1
