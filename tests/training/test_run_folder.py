"""Run folders: new for each run, written atomically, found from a checkpoint."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

from seqsetvae.system import files
from seqsetvae.training.checkpoints import best_checkpoint
from seqsetvae.training.run_folder import RunFolder, find_checkpoint
from seqsetvae.training.schedule import VAL_AUC


def test_run_folders_never_collide(tmp_path):
    folders = {RunFolder.create(tmp_path, "finetune").path for _ in range(3)}
    assert len(folders) == 3
    assert all((path / "checkpoints").is_dir() for path in folders)


def test_files_of_a_run_appear_whole(tmp_path):
    run = RunFolder.create(tmp_path, "finetune")
    run.write_json("config.json", {"name": "Müller"})
    assert run.read_json("config.json") == {"name": "Müller"}
    assert {path.name for path in run.path.iterdir()} == {"config.json", "checkpoints"}


def test_a_new_run_removes_temporary_files_of_killed_runs(tmp_path):
    old = RunFolder.create(tmp_path, "finetune")
    leftovers = [
        old.checkpoints / f".best.ckpt.partial-{files._HOST}-01234567",
        old.path / f".summary.json.partial-{files._HOST}-01234567",
    ]
    for leftover in leftovers:
        leftover.write_text("half a file")
    old.best.write_text("best")
    RunFolder.create(tmp_path, "finetune")
    assert [leftover.exists() for leftover in leftovers] == [False, False]
    assert old.best.exists()


def test_a_checkpoint_is_found_from_a_run_folder_and_back(finished, pretrained):
    run, _ = finished
    best = run / "checkpoints" / "best.ckpt"
    for given in (run, best):
        path, folder = find_checkpoint(given)
        assert path == best
        assert folder is not None
        assert folder.path.samefile(run)
    assert find_checkpoint(pretrained) == (pretrained, None)


def test_checkpoints_hold_no_paths_and_keep_their_best_score_in_a_moved_folder(finished, tmp_path):
    run, _ = finished
    for name in ("best", "last"):
        assert str(run.parent) not in repr(
            torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["callbacks"]
        )
    moved = RunFolder(tmp_path / "moved")
    shutil.copytree(run, moved.path)
    states = torch.load(moved.last, weights_only=True)["callbacks"]
    best = best_checkpoint(moved, VAL_AUC)
    best.load_state_dict(states[best.state_key])
    table = list(csv.DictReader((run / "metrics.csv").open()))
    assert float(best.best_model_score) == pytest.approx(max(float(row["val_auc"]) for row in table))
    assert Path(best.best_model_path) == moved.best
