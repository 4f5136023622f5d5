"""What stops a fine-tuning run: NaN, data and labels that cannot be used, a full disk."""

import errno
import multiprocessing
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from seqsetvae.checkpoint.backbone import read_checkpoint
from seqsetvae.checkpoint.file import read_file
from seqsetvae.cohort import Cohort
from seqsetvae.runs.scoring import Scorer
from seqsetvae.system.files import cannot_write
from seqsetvae.training import callbacks, precision
from seqsetvae.training.run_folder import Row
from tests import tiny
from tests.cli.labels import changed_labels
from tests.command import argv, call, finetune, refused, rows_of, run_of, succeeded
from tests.training.helpers import load


def test_nan_scores_end_the_run_without_a_best_checkpoint(pretrained, compiled, tmp_path, monkeypatch):
    def broken(self: Any, pooled: torch.Tensor) -> torch.Tensor:
        return self.net(pooled) * (1.0 if self.training else float("nan"))

    monkeypatch.setattr("seqsetvae.models.head.Head.forward", broken)
    status, _, errors = finetune(pretrained, compiled.path, tmp_path)
    assert status == 1
    assert "val_auc is not finite" in errors
    assert [file.name for file in (run_of(tmp_path) / "checkpoints").iterdir()] == ["last.ckpt"]  # from the start


def test_nan_scores_in_a_later_epoch_keep_the_earlier_best_checkpoint(pretrained, compiled, tmp_path, monkeypatch):
    def broken(self: Any, pooled: torch.Tensor) -> torch.Tensor:
        self.validated = getattr(self, "validated", 0) + (not self.training)
        return self.net(pooled) * (1.0 if self.validated <= 4 else float("nan"))  # four batches: the first validation

    monkeypatch.setattr("seqsetvae.models.head.Head.forward", broken)
    status, _, errors = finetune(pretrained, compiled.path, tmp_path)
    assert status == 1
    assert "val_auc is not finite" in errors
    state = load(run_of(tmp_path) / "checkpoints" / "best.ckpt")["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
    assert len(rows_of(run_of(tmp_path))) == 1


def test_a_validation_split_of_one_class_stops_before_training(pretrained, old_layout, compiled, tmp_path):
    valid = set(compiled.split("valid").stay_id.tolist())
    labels = changed_labels(old_layout, tmp_path / "oc.csv", lambda stay, label: "0" if stay in valid else label)
    errors = refused(finetune(pretrained, old_layout, tmp_path, label_path=labels))
    assert "split 'valid' has 20 stays of class 0, 0 of class 1" in errors
    assert not list(tmp_path.glob("finetune-*"))


def test_statistics_of_the_train_split_are_a_warning_if_the_checkpoint_does_not_record_its_own(
    finished, pretrained, old_layout, tmp_path
):
    warning = "There was no stats.csv: mean and std of each variable are those of this cohort's train split"
    assert read_checkpoint(pretrained).trained_on.known is None
    assert warning not in finished[1]
    shutil.copytree(old_layout.parent, tmp_path / "data")
    (tmp_path / "data" / "stats.csv").unlink()
    assert warning in succeeded(finetune(pretrained, tmp_path / "data", tmp_path, max_epochs=1))


def test_embeddings_of_another_width_are_refused(pretrained, old_layout, tmp_path):
    shutil.copytree(old_layout.parent, tmp_path / "data")
    (tmp_path / "data" / "cached.csv").unlink()
    errors = refused(finetune(pretrained, tmp_path / "data", tmp_path))
    assert "width 12" in errors
    assert "width 768" in errors
    assert "--embeddings_path" in errors


def test_an_output_folder_that_cannot_be_created_is_an_error(pretrained, compiled, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert "--output_root_dir" in refused(finetune(pretrained, compiled.path, tmp_path / "file" / "below"))


def test_a_place_that_may_not_be_written_to_is_found_before_the_work(finished, tmp_path, monkeypatch):
    """Root may write anywhere, so the answer of the system is replaced."""
    may, closed = os.access, (tmp_path, finished[0])
    monkeypatch.setattr(os, "access", lambda place, mode, **more: place not in closed and may(place, mode, **more))
    monkeypatch.setattr(Scorer, "predict", None)  # is not reached
    not_there = f"allowed: a place that you may write to, which {tmp_path} is not"
    calls: tuple[tuple[dict[str, object], str], ...] = (
        ({"mode": "predict", "output": tmp_path / "risks.csv"}, not_there),
        ({"mode": "export", "output": tmp_path / "new" / "model"}, not_there),
        ({"mode": "evaluate", "split": "valid", "output": tmp_path / "results"}, not_there),
        ({"mode": "evaluate", "split": "valid"}, "you may not write there. Pass --output FOLDER"),
    )
    for flags, expected in calls:
        assert expected in refused(call(argv(ckpt=finished[0], **flags)))
    assert list(tmp_path.iterdir()) == []


def _stage_1(pretrained: Path, cohort: Cohort, root: Path) -> Path:
    succeeded(finetune(pretrained, cohort.path, root, max_epochs=2, unfreeze_after=2, batch_size=4))
    return run_of(root)


def test_a_full_disk_in_stage_2_leaves_the_best_of_stage_1(pretrained, compiled, tmp_path):
    """Checkpoints of stage 2 are larger, since they hold the optimizer's state of the backbone too."""
    alone = _stage_1(pretrained, compiled, tmp_path / "stage 1 alone")
    size = (alone / "checkpoints" / "best.ckpt").stat().st_size
    with tiny.largest_file(size + size // 5):
        status, said, errors = finetune(pretrained, compiled.path, tmp_path / "full", unfreeze_after=2, batch_size=4)
    run = run_of(tmp_path / "full")
    assert status == 2
    assert "\n  2/3      1 " in said
    assert errors.count("\n") == 1
    assert errors.startswith(f"error: {run / 'checkpoints'}")
    assert "cannot be written (File too large). Free disk space" in errors
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    for name in ("best.ckpt", "last.ckpt"):
        kept, whole = (read_file(folder / "checkpoints" / name)["state_dict"] for folder in (run, alone))
        assert {key for key in whole if not torch.equal(kept[key], whole[key])} == set(), name


def test_a_table_that_cannot_be_appended_to_is_one_error(pretrained, compiled, tmp_path, monkeypatch):
    def full(path: Path, text: str) -> None:
        raise cannot_write(path, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(callbacks, "append_text", full)
    errors = refused(finetune(pretrained, compiled.path, tmp_path))
    assert errors.count("\n") == 1
    assert "metrics.csv: cannot be written (No space left on device)" in errors


def test_curves_that_cannot_be_written_are_one_warning(tmp_path, capsys):
    """The table beside them is what the run goes on from. (capfd would write to a file, which has the limit too.)"""
    (tmp_path / "file").touch()
    callbacks.MetricsTable(tmp_path / "metrics.csv", tmp_path / "file" / "tensorboard").close()
    table = callbacks.MetricsTable(tmp_path / "metrics.csv", tmp_path / "tensorboard")
    row = Row(1, 1, 1, {"val_auc": 0.5}, {"lr_head": 0.1}, 1.0, None, 1.0)
    with tiny.largest_file(250):
        for _ in range(3):
            table.add(row)
    table.close()
    said = capsys.readouterr()
    assert said.err == ""
    assert [line.endswith("; the run continues without it") for line in said.out.splitlines()] == [True, True]


@pytest.mark.parametrize("unfreeze_after", [0, 2])
def test_loader_processes_that_cannot_be_started_are_one_error(
    pretrained, compiled, tmp_path, monkeypatch, unfreeze_after
):
    """Semaphores are files in /dev/shm, which in a container holds 64 MB and is no disk.

    They fail inside of a training, whose clean-up by Lightning then fails too.
    """

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(multiprocessing, "Lock", full)
    errors = refused(finetune(pretrained, compiled.path, tmp_path, num_workers=2, unfreeze_after=unfreeze_after))
    said = r"error: num_workers: received 2, .*No space left on device in /dev/shm.* Pass --num_workers 0\.\n"
    assert re.fullmatch(said, errors)


def test_a_loader_process_that_was_ended_is_one_error(pretrained, compiled, tmp_path, monkeypatch):
    def ended(*_: object, **__: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error.\nMore.")

    monkeypatch.setattr("seqsetvae.runs.finetune.run", ended)
    status, _, errors = finetune(pretrained, compiled.path, tmp_path)
    assert status == 1
    assert errors.startswith("error: DataLoader worker (pid 7) is killed by signal: Bus error. Often memory ran out")
    assert errors.count("\n") == 1


def test_compile_model_without_a_compiler_is_one_error_before_training(pretrained, compiled, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", refuse)
    precision._require_compiler.cache_clear()
    errors = refused(finetune(pretrained, compiled.path, tmp_path, compile_model=True))
    assert "compile_model: torch.compile fails here (RuntimeError: No working C++ compiler found)" in errors
    assert not list(tmp_path.iterdir())
