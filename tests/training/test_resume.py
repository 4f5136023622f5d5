"""A run that was killed and resumed ends like one that was not: weights, optimizer, rates, rows, to the last bit."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from benchmarks.kills import differences
from model_optimized import SeqSetVAEFineTuner, SeqSetVAEPretrainer
from seqsetvae.cohort import Cohort
from seqsetvae.models import trees
from seqsetvae.runs import finetune as finetune_runs
from seqsetvae.runs import out_of_fold
from seqsetvae.system.files import CannotWriteError
from seqsetvae.training import callbacks, checkpoints, feature_pass, start
from seqsetvae.training.resume import read_resume_point
from seqsetvae.training.run_folder import RunFolder
from tests.command import command, finetune, refused, run_of, succeeded
from tests.training.helpers import load
from tests.training.resuming import EVERY_STEP, FINETUNING, STEPS, assert_same_run, killed_at, pretrain, refusal, resume


@pytest.fixture(scope="module")
def whole(pretrained: Path, compiled: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning run that was not killed."""
    root = tmp_path_factory.mktemp("whole")
    succeeded(finetune(pretrained, compiled.path, root, **FINETUNING))
    return run_of(root)


@pytest.fixture(scope="module")
def whole_pretraining(compiled: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    succeeded(pretrain(compiled.path, root))
    return run_of(root, "pretrain")


MIDDLE_OF_STAGE_2 = (SeqSetVAEFineTuner, "training_step", 2 * STEPS + 5)  # in the middle of a gradient group
MOMENTS: dict[str, tuple[Any, str, int, dict[str, Any]]] = {
    "while features are cached": (feature_pass, "require_finite", 5, {}),
    "in the first step": (SeqSetVAEFineTuner, "training_step", 1, {}),
    "in the first epoch": (SeqSetVAEFineTuner, "training_step", 5, EVERY_STEP),
    "in the last batch of stage 1": (SeqSetVAEFineTuner, "training_step", 2 * STEPS, {}),
    "in a validation of stage 1": (SeqSetVAEFineTuner, "validation_step", 4, EVERY_STEP),
    "between best.ckpt and last.ckpt": (callbacks.MetricsTable, "add", 2, {}),
    "between metrics.csv and last.ckpt": (checkpoints.SafeCheckpointIO, "save_checkpoint", 5, {}),
    "between the stages": (SeqSetVAEFineTuner, "unfreeze_backbone", 1, {}),
    "in stage 2, saved at its start": (*MIDDLE_OF_STAGE_2, {}),
    "in stage 2, saved inside the epoch": (*MIDDLE_OF_STAGE_2, EVERY_STEP),
    "in stage 2, after its first best.ckpt": (callbacks.MetricsTable, "add", 3, {}),
    "in the last step": (SeqSetVAEFineTuner, "training_step", 4 * STEPS, EVERY_STEP),
    "in the calibration": (finetune_runs, "calibrate", 1, {}),
    "before the summary": (start, "summarize", 1, {}),
}


ORDINARY = (  # the others are of the same kinds, and are in the slow tests
    "in the first epoch",
    "between best.ckpt and last.ckpt",
    "in stage 2, saved inside the epoch",
    "in the calibration",
)


@pytest.mark.parametrize(
    "moment", [pytest.param(name, marks=[] if name in ORDINARY else pytest.mark.slow) for name in MOMENTS]
)
def test_a_killed_run_ends_like_one_that_was_not(whole, pretrained, compiled, tmp_path, moment):
    owner, name, number, flags = MOMENTS[moment]
    with killed_at(owner, name, number):
        finetune(pretrained, compiled.path, tmp_path, **{**FINETUNING, **flags})
    run = run_of(tmp_path)
    assert not (run / "summary.json").exists()
    resume(run)
    assert_same_run(run, whole)


@pytest.mark.parametrize(
    ("name", "number", "flags"),
    [
        pytest.param("training_step", 3, {}, marks=pytest.mark.slow),
        ("training_step", STEPS + 5, EVERY_STEP),
        pytest.param("validation_step", 4, EVERY_STEP, marks=pytest.mark.slow),
    ],
)
def test_killed_pretraining_ends_like_one_that_was_not(whole_pretraining, compiled, tmp_path, name, number, flags):
    with killed_at(SeqSetVAEPretrainer, name, number):
        pretrain(compiled.path, tmp_path, **flags)
    run = run_of(tmp_path, "pretrain")
    resume(run)
    assert_same_run(run, whole_pretraining)


@pytest.mark.parametrize("num_workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_random_numbers_that_the_loader_draws_go_on_too(compiled, tmp_path, num_workers):
    words: dict[str, Any] = {"objective": "forecasting"}
    assert pretrain(compiled.path, tmp_path / "whole", **words)[0] == 0
    with killed_at(SeqSetVAEPretrainer, "training_step", STEPS + 5):
        pretrain(compiled.path, tmp_path / "killed", **words, **EVERY_STEP, num_workers=num_workers)
    resume(run_of(tmp_path / "killed", "pretrain"))
    assert_same_run(run_of(tmp_path / "killed", "pretrain"), run_of(tmp_path / "whole", "pretrain"))


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_too(whole, pretrained, compiled, tmp_path):
    with killed_at(SeqSetVAEFineTuner, "training_step", STEPS + 4):
        finetune(pretrained, compiled.path, tmp_path, **{**FINETUNING, **EVERY_STEP})
    for _ in range(2):
        with killed_at(SeqSetVAEFineTuner, "training_step", 5):
            resume(run_of(tmp_path))
    resume(run_of(tmp_path))
    assert_same_run(run_of(tmp_path), whole)


@pytest.mark.slow  # the ordinary tests have worker processes in pretraining, above
def test_worker_processes_give_the_same_batches_after_a_restart(whole, pretrained, compiled, tmp_path):
    with killed_at(*MIDDLE_OF_STAGE_2):
        finetune(pretrained, compiled.path, tmp_path, **{**FINETUNING, **EVERY_STEP}, num_workers=2)
    resume(run_of(tmp_path))
    assert_same_run(run_of(tmp_path), whole)


@pytest.mark.parametrize("average", [pytest.param("fixed", marks=pytest.mark.slow), "folds"])
def test_a_cosine_and_an_average_go_on_too(compiled, tmp_path, monkeypatch, average):
    """Weights are those of the checkpoint: nothing is trained out of fold again."""
    pytest.importorskip("lightgbm", reason="boosted trees need lightgbm")
    monkeypatch.setattr(trees, "ROUNDS", 15)
    monkeypatch.setattr(out_of_fold, "FOLDS", 2)
    words = {"architecture": "variable_summaries", "from_random_weights": True, "data_dir": compiled.path}
    words |= {"max_epochs": 3, "batch_size": 16, "tree_models": 1, "head_members": 3, "average": average, **EVERY_STEP}
    step, steps = SeqSetVAEFineTuner.training_step, []

    def counted(*arguments):
        steps.append(1)
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SeqSetVAEFineTuner, "training_step", counted)
        assert command("finetune", **words, output_root_dir=tmp_path / "whole")[0] == 0
    with killed_at(SeqSetVAEFineTuner, "training_step", len(steps) - 4):
        command("finetune", **words, output_root_dir=tmp_path / "killed")
    monkeypatch.setattr(out_of_fold, "folds", None)
    resume(run_of(tmp_path / "killed"))
    assert_same_run(run_of(tmp_path / "killed"), run_of(tmp_path / "whole"))


def test_a_full_disk_out_of_fold_is_an_error_and_does_not_fix_the_weights(compiled, tmp_path, monkeypatch):
    def full(*_):
        raise CannotWriteError("no space left")

    monkeypatch.setattr(out_of_fold, "_part", full)
    words = {"architecture": "variable_summaries", "from_random_weights": True, "data_dir": compiled.path}
    assert "no space left" in refused(command("finetune", **words, average="folds", output_root_dir=tmp_path))


@pytest.mark.slow  # the ordinary tests resume LoRA in tests/training/test_tuning.py
def test_added_matrices_of_lora_go_on_too_and_double_precision_is_not_rounded_on_the_way(
    pretrained, compiled, tmp_path
):
    flags: dict[str, Any] = {**FINETUNING, "tuning": "lora", "lora_rank": 2, "precision": "64-true", **EVERY_STEP}
    flags |= {"max_epochs": 2, "unfreeze_after": 1}
    assert finetune(pretrained, compiled.path, tmp_path / "whole", **flags)[0] == 0
    with killed_at(SeqSetVAEFineTuner, "training_step", STEPS + 5):
        finetune(pretrained, compiled.path, tmp_path / "killed", **flags)
    resume(run_of(tmp_path / "killed"))
    assert_same_run(run_of(tmp_path / "killed"), run_of(tmp_path / "whole"))


def test_patience_and_reduced_rates_go_on_and_a_stopped_stage_stays_stopped(pretrained, compiled, tmp_path):
    flags: dict[str, Any] = {"batch_size": 8, "max_epochs": 9, "unfreeze_after": None, "cls_head_lr": 1e-5}
    flags |= {"es_patience": 3, "lr_patience": 0, "min_lr": 0, "lr_factor": 1e-6}  # after one cut nothing improves
    assert finetune(pretrained, compiled.path, tmp_path / "whole", **flags)[0] == 0
    whole = run_of(tmp_path / "whole")
    n_epochs = len((whole / "metrics.csv").read_text(encoding="utf-8").splitlines()) - 1
    assert n_epochs < 9
    with killed_at(SeqSetVAEFineTuner, "training_step", STEPS * (n_epochs - 1) + 3):
        finetune(pretrained, compiled.path, tmp_path / "killed", **flags)
    resume(run_of(tmp_path / "killed"))
    assert_same_run(run_of(tmp_path / "killed"), whole)
    with killed_at(start, "summarize", 1):
        finetune(pretrained, compiled.path, tmp_path / "stopped", **flags)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(SeqSetVAEFineTuner, "training_step")
        resume(run_of(tmp_path / "stopped"))
    assert_same_run(run_of(tmp_path / "stopped"), whole)


@pytest.fixture(scope="module")
def killed_once(pretrained: Path, compiled: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in stage 2."""
    root = tmp_path_factory.mktemp("killed")
    with killed_at(*MIDDLE_OF_STAGE_2):
        finetune(pretrained, compiled.path, root, **{**FINETUNING, **EVERY_STEP})
    return run_of(root)


@pytest.fixture
def killed(killed_once: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(killed_once, tmp_path / killed_once.name))


def test_a_moved_run_goes_on_where_it_is(whole, killed, tmp_path):
    moved = tmp_path / "moved to a place with spaces" / "Läufe"
    moved.parent.mkdir()
    shutil.move(killed, moved)
    resume(moved)
    assert_same_run(moved, whole)
    assert not killed.exists()


@pytest.mark.parametrize("damage", [pytest.param("truncated", marks=pytest.mark.slow), "a flipped bit"])
def test_a_damaged_checkpoint_is_found_and_the_one_before_is_used(whole, killed, damage):
    last = killed / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 1
    last.write_bytes(content)
    said = resume(killed)
    assert f"⚠️  {last}" in said
    assert "previous.ckpt is used instead" in said
    assert_same_run(killed, whole)


def test_a_damaged_checkpoint_never_takes_the_place_of_the_one_before(killed):
    """If the resumed process is killed before its first save, the next one can go on, too."""
    (killed / "checkpoints" / "last.ckpt").write_bytes(b"PK\x03\x04 torn")
    point = read_resume_point(RunFolder(killed))
    assert point is not None
    assert point.path.name == "previous.ckpt"
    with killed_at(pl.Trainer, "save_checkpoint", 1):
        resume(killed)
    assert read_resume_point(RunFolder(killed)) is not None


def test_two_damaged_checkpoints_are_one_clear_error(killed):
    for name in ("last", "previous"):
        (killed / "checkpoints" / f"{name}.ckpt").write_bytes(b"PK\x03\x04 torn")
    errors = refusal(killed)
    assert errors.count("\n") == 1
    assert "last.ckpt and previous.ckpt cannot be read, so the run cannot be resumed" in errors


def test_rows_are_neither_lost_nor_doubled_in_any_table(whole, killed):
    with (killed / "metrics.csv").open("a", encoding="utf-8") as file:
        file.write("2,3,17,0.5")  # torn, and of an epoch that no checkpoint knows
    resume(killed)
    assert differences(killed, whole) == []
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    curves = events.EventAccumulator(str(killed / "tensorboard")).Reload()
    table = list(csv.DictReader((killed / "metrics.csv").open(encoding="utf-8")))
    assert [event.step for event in curves.Scalars("val_auc")] == [int(row["step"]) for row in table]
    state = json.loads((killed / "run_state.json").read_text(encoding="utf-8"))
    assert [row["step"] for row in state["rows"]] == [int(row["step"]) for row in table]


def test_a_checkpoint_is_never_half_written(whole, killed):
    """Killed inside the write of a checkpoint, the one before is whole."""
    with killed_at(torch, "save", 2):
        resume(killed)
    load(killed / "checkpoints" / "last.ckpt")
    resume(killed)
    assert_same_run(killed, whole)
