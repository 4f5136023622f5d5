"""A loss or metric that is not finite stops the run at the first such batch, whose stays are saved."""

import json
from typing import Any

import pytest
import torch

from seqsetvae.tasks.model import Loss
from seqsetvae.training import feature_pass, finite
from seqsetvae.training.run_folder import RunFolder
from tests.command import command, finetune, run_of

BAD = 5  # the batch, counted from 0, whose loss becomes NaN


def _break_batch(monkeypatch: pytest.MonkeyPatch, owner: type, step: str, which: int) -> list[list[int]]:
    """Make the loss of one training batch NaN; returns the stays of all batches, as they come."""
    seen: list[list[int]] = []
    original = getattr(owner, step)

    def broken(self: Any, batch: Any, batch_index: int) -> torch.Tensor:
        seen.append(batch.stay_id.tolist())
        loss = original(self, batch, batch_index)
        return loss * float("nan") if len(seen) - 1 == which else loss

    monkeypatch.setattr(owner, step, broken)
    return seen


@pytest.mark.parametrize("every", [2, 50])
def test_a_training_loss_that_is_nan_stops_the_run_and_names_its_stays(
    pretrained, compiled, tmp_path, monkeypatch, every
):
    """With checks every 2 batches soon after it, with checks every 50 before the validation."""
    from model_optimized import SeqSetVAEFineTuner

    monkeypatch.setattr(finite.FiniteWatch, "EVERY", every)
    seen = _break_batch(monkeypatch, SeqSetVAEFineTuner, "training_step", BAD)
    status, _, errors = finetune(pretrained, compiled.path, tmp_path)
    assert status == 1
    run = run_of(tmp_path)
    assert "train_loss is not finite: that of batch 5 of the epoch" in errors
    assert f"listed in {run / 'bad_batch.json'}" in errors
    assert (len(seen) == BAD + 1) == (every == 2)  # soon after the batch, or at the end of the epoch
    content = json.loads((run / "bad_batch.json").read_text(encoding="utf-8"))
    assert (content["split"], content["stage"], content["epoch"], content["batch"]) == ("train", 1, 1, BAD)
    assert content["stays"] == seen[BAD]
    assert content["stays_of_the_batch_before"] == seen[BAD - 1]
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["last.ckpt"]  # from the start of the stage


def test_a_validation_batch_that_is_nan_names_its_stays(pretrained, compiled, tmp_path, monkeypatch):
    from model_optimized import SeqSetVAEFineTuner

    original, seen = SeqSetVAEFineTuner.predicted, list[list[int]]()

    def broken(self: Any, batch: Any) -> torch.Tensor:
        seen.append(batch.stay_id.tolist())
        return original(self, batch) * (float("nan") if len(seen) == 3 else 1)

    monkeypatch.setattr(SeqSetVAEFineTuner, "predicted", broken)
    status, _, errors = finetune(pretrained, compiled.path, tmp_path)
    assert status == 1
    assert "val_auc is not finite" in errors
    content = json.loads((run_of(tmp_path) / "bad_batch.json").read_text(encoding="utf-8"))
    assert (content["split"], content["batch"], content["stays"]) == ("valid", 2, seen[2])


def test_a_validation_loss_that_is_infinite_is_never_the_best(pretrained, compiled, tmp_path, monkeypatch):
    """The logits are finite, so that there is an AUROC."""
    original = Loss.with_weight

    def infinite(self: Loss, *batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss, weight = original(self, *batch)
        return loss * float("inf"), weight

    monkeypatch.setattr(Loss, "with_weight", infinite)
    status, _, errors = finetune(pretrained, compiled.path, tmp_path)
    assert status == 1
    assert "val_loss is not finite" in errors
    assert [file.name for file in (run_of(tmp_path) / "checkpoints").iterdir()] == ["last.ckpt"]  # from the start


def test_a_feature_that_is_nan_names_its_stay_in_a_file_only(pretrained, compiled, tmp_path, monkeypatch):
    """What a frozen backbone makes of a stay is checked before it is cached."""
    original, bad = feature_pass.require_finite, list[int]()

    def broken(rows: torch.Tensor, stay_id: torch.Tensor, split: str) -> None:
        bad[:] = [int(stay_id[-1])]
        original(torch.tensor([0.0] * (len(rows) - 1) + [float("nan")]), stay_id, split)

    monkeypatch.setattr(feature_pass, "require_finite", broken)
    status, _, errors = finetune(pretrained, compiled.path, tmp_path)
    assert status == 1
    run = run_of(tmp_path)
    assert f"NaN or infinite for a stay that is listed in {run / 'bad_batch.json'}, of the train split" in errors
    assert json.loads((run / "bad_batch.json").read_text(encoding="utf-8")) == {"split": "train", "stays": bad}
    assert str(bad[0]) not in errors + (run / "train.log").read_text(encoding="utf-8")


def test_pretraining_is_watched_too(compiled, tmp_path, monkeypatch):
    from model_optimized import SeqSetVAEPretrainer

    seen = _break_batch(monkeypatch, SeqSetVAEPretrainer, "training_step", 1)
    flags = {"data_dir": compiled.path, "output_root_dir": tmp_path, "preset": "small", "max_epochs": 1}
    status, _, errors = command("pretrain", batch_size=8, **flags)
    assert status == 1
    assert "train_loss is not finite: that of batch 1" in errors
    content = json.loads((run_of(tmp_path, "pretrain") / "bad_batch.json").read_text(encoding="utf-8"))
    assert content["stays"] == seen[1]


def test_a_process_whose_number_has_not_arrived_learns_of_the_loss_of_another(tmp_path, monkeypatch):
    check = finite.FiniteWatch(RunFolder(tmp_path), stage=1)
    monkeypatch.setattr(finite, "all_gather", lambda own: [own, 3.0])
    with pytest.raises(finite.NotFiniteError, match="batch 3 of the epoch"):
        check._require_finite(None)
    monkeypatch.setattr(finite, "all_gather", lambda own: [own, own])
    check._require_finite(None)
