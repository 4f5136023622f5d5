"""Two stages over one val_auc: what trains, from where, how fast, how long, and which checkpoint is kept."""

import csv
import math

import numpy as np
import pytest
import torch

from seqsetvae.settings.groups import ScheduleSettings
from tests import tiny
from tests.training.helpers import BACKBONE_LR, HEAD_LR, Scripted, fine_tuner, load, make_run, run_stages, scripted_run

STEPS = 4  # a training epoch: 60 stays, 16 at a time


def _same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], prefix: str = "") -> bool:
    names = [name for name in ours if name.startswith(prefix)]
    return bool(names) and all(torch.equal(ours[name], theirs[name]) for name in names)


def test_stage_1_trains_exactly_the_head(compiled, tmp_path):
    module, run = scripted_run(compiled, tmp_path, [0.6, 0.7, 0.8], max_epochs=3, unfreeze_after=None)
    for weights in module.weights:  # buffers too, over validations in between
        assert _same(weights, module.starts[0], "backbone.")
    changed = {name for name, value in module.weights[-1].items() if not torch.equal(value, module.starts[0][name])}
    assert changed == {f"head.{name}" for name, _ in module.head.named_parameters()}
    assert run.state.trained == {1: {"backbone": 0, "head": sum(value.numel() for value in module.head.parameters())}}


def test_a_frozen_backbone_has_no_dropout_and_an_unfrozen_one_has(compiled, tmp_path):
    module, _ = scripted_run(compiled, tmp_path, [0.6, 0.7, 0.8, 0.9], max_epochs=4)
    assert set(module.modes) == {(1, False, True), (2, True, True)}
    assert len(module.modes) == 4 * STEPS


def test_freezing_is_seen_at_once(compiled):
    module = fine_tuner(compiled)
    modes = [module.backbone.training, module.head.training]
    module.unfreeze_backbone()
    modes.append(module.backbone.training)
    module.eval()
    modes += [module.backbone.training, module.head.training]
    assert modes == [False, True, True, False, False]


def test_stage_2_trains_everything(compiled, tmp_path):
    module, run = scripted_run(compiled, tmp_path, [0.6, 0.7, 0.8], max_epochs=3)
    parameters = {name for name, _ in module.named_parameters()}
    changed = {name for name, value in module.weights[-1].items() if not torch.equal(value, module.starts[1][name])}
    assert changed == parameters
    assert run.state.trained[2] == {
        part: sum(value.numel() for value in getattr(module, part).parameters()) for part in ("backbone", "head")
    }
    assert "backbone.alibi_slope" not in parameters  # inert in the old scripts too


def test_every_parameter_of_stage_2_gets_a_gradient_from_the_loss(compiled):
    """Not only weight decay: no part of what trains is cut off from the loss."""
    module = fine_tuner(compiled)
    module.unfreeze_backbone()
    batch = tiny.batch_of(tiny.ragged_stays(), dtype=np.float32)
    module.loss(module(batch), batch.label).backward()
    assert {name for name, value in module.named_parameters() if value.grad is None or not value.grad.any()} == set()


def test_stage_2_goes_on_from_the_best_of_stage_1(compiled, tmp_path):
    module, _ = scripted_run(compiled, tmp_path, [0.6, 0.9, 0.5, 0.7], max_epochs=4, unfreeze_after=3)
    assert _same(module.starts[1], module.weights[1])
    assert not _same(module.starts[1], module.weights[2])


@pytest.mark.parametrize(
    ("script", "best"), [([0.6, 0.9, 0.7, 0.8], 1), ([0.6, 0.5, 0.9, 0.8], 2), ([0.9, 0.6, 0.9, 0.9], 0)]
)
def test_best_is_the_highest_over_both_stages_and_last_is_the_last(compiled, tmp_path, script, best):
    module, run = scripted_run(compiled, tmp_path, script, max_epochs=4)
    assert _same(load(run.folder.best)["state_dict"], module.weights[best])
    assert _same(load(run.folder.last)["state_dict"], module.weights[-1])
    found = sorted(path.name for path in run.folder.checkpoints.iterdir())
    assert found == ["best.ckpt", "last.ckpt", "previous.ckpt"]  # the last one goes when the whole run has finished


def test_checkpoints_hold_the_live_model_only(compiled, tmp_path):
    """No decoder, no fusion, no metric state: backbone and head, nothing else."""
    module, run = scripted_run(compiled, tmp_path, [0.6], max_epochs=1)
    expected = {f"backbone.{name}" for name in tiny.tiny_backbone().state_dict()}
    expected |= {f"head.net.{layer}.{kind}" for layer in (0, 3) for kind in ("weight", "bias")}
    assert load(run.folder.best)["state_dict"].keys() == expected
    parts = {name.split(".")[0] for name, value in module.named_modules() if any(True for _ in value.parameters())}
    assert parts - {""} == {"backbone", "head"}


def test_the_table_counts_over_both_stages(compiled, tmp_path):
    _, run = scripted_run(compiled, tmp_path, [0.6, 0.9, 0.7, 0.8], max_epochs=4)
    with (run.folder.path / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["stage"], row["epoch"], row["step"]) for row in rows] == [
        ("1", "1", str(STEPS)),
        ("1", "2", str(2 * STEPS)),
        ("2", "3", str(3 * STEPS)),
        ("2", "4", str(4 * STEPS)),
    ]
    assert [float(row["val_auc"]) for row in rows] == pytest.approx([0.6, 0.9, 0.7, 0.8])
    assert [float(row["lr_backbone"]) for row in rows] == [0, 0, BACKBONE_LR, BACKBONE_LR]
    metrics = ["train_loss", "val_loss", "val_auc", "val_auprc"]
    others = ["lr_head", "lr_backbone", "stays_per_second", "waiting", "seconds"]
    assert list(rows[0]) == ["stage", "epoch", "step", *metrics, *others]


def test_every_epoch_of_every_stage_has_its_own_batches(compiled, tmp_path):
    module, _ = scripted_run(compiled, tmp_path, [0.6, 0.7, 0.8, 0.9], max_epochs=4)
    epochs = [module.batches[start : start + STEPS] for start in range(0, 4 * STEPS, STEPS)]
    for epoch in epochs:
        assert sorted(stay for batch in epoch for stay in batch) == compiled.split("train").stay_id.tolist()
    assert all(ours != theirs for i, ours in enumerate(epochs) for theirs in epochs[:i])


# ---------------------------------------------------------------------------------------- rates and stopping


def test_the_rate_is_cut_before_a_run_without_progress_stops(compiled, tmp_path):
    """val_auc constant: the first is the best, lr_patience + 1 more bring a cut, es_patience more the end."""
    module, run = scripted_run(
        compiled, tmp_path, [0.7] * 20, max_epochs=20, unfreeze_after=None, lr_patience=1, es_patience=4
    )
    assert module.validations == 1 + 4
    rates = [rate["head"] for _, rate in module.rates]
    assert rates == [HEAD_LR] * 3 * STEPS + [HEAD_LR / 2] * 2 * STEPS
    assert load(run.folder.last)["callbacks"]["Plateau"]["last_epoch"] == module.validations


def test_progress_in_val_auc_prevents_cuts_and_stopping(compiled, tmp_path):
    """Any rise counts, however small, for scheduler and stopping alike; val_loss does not matter."""
    script = [0.7 + 1e-5 * n for n in range(6)]
    module, _ = scripted_run(
        compiled, tmp_path, script, max_epochs=6, unfreeze_after=None, lr_patience=0, es_patience=2
    )
    assert module.validations == 6
    assert {rate["head"] for _, rate in module.rates} == {HEAD_LR}


def test_a_falling_val_auc_is_no_progress(compiled, tmp_path):
    module, _ = scripted_run(
        compiled, tmp_path, [0.7, 0.6, 0.5, 0.4, 0.3], max_epochs=5, unfreeze_after=None, lr_patience=0, es_patience=3
    )
    assert module.validations == 4


def test_patience_counts_anew_in_stage_2(compiled, tmp_path):
    """Each stage has its own patience, and its own full rates; an early end of stage 1 leaves its epochs to stage 2."""
    module, run = scripted_run(
        compiled, tmp_path, [0.8, *[0.7] * 20], max_epochs=9, unfreeze_after=6, lr_patience=0, es_patience=2
    )
    assert [row.stage for row in run.state.rows] == [1] * 3 + [2] * 3
    assert next(rate for stage, rate in module.rates if stage == 2) == {"head": HEAD_LR, "backbone": BACKBONE_LR}


def test_rates_do_not_fall_below_min_lr(compiled, tmp_path):
    options = {"max_epochs": 6, "unfreeze_after": 0, "lr_patience": 0, "es_patience": 8}
    module, _ = scripted_run(compiled, tmp_path, [0.7] * 9, **options, lr_factor=0.1, min_lr=2e-5)
    assert module.rates[-1][1] == {"head": 2e-5, "backbone": 2e-5}


def test_rates_warm_up_after_unfreezing_only(compiled, tmp_path):
    module, _ = scripted_run(compiled, tmp_path, [0.6, 0.7, 0.8], max_epochs=3, unfreeze_after=1, warmup_steps=3)
    assert [rate["head"] for stage, rate in module.rates if stage == 1] == [HEAD_LR] * STEPS
    expected = [1 / 3, 2 / 3, *[1] * (2 * STEPS - 2)]
    for part, lr in (("head", HEAD_LR), ("backbone", BACKBONE_LR)):
        rates = [rate[part] for stage, rate in module.rates if stage == 2]
        assert rates == pytest.approx([lr * share for share in expected])


def test_rates_of_pretraining_fall_along_half_a_cosine_after_the_warm_up(compiled, tmp_path):
    module: Scripted = fine_tuner(compiled, Scripted)
    module.start([0.6, 0.7])
    module.unfreeze_backbone()
    run = make_run(module, compiled, tmp_path)
    run.schedule = ScheduleSettings(max_epochs=2, warmup_steps=2, min_lr=1e-5, es_patience=3)  # that of pretraining
    run.fit(2, 2, warm_up=True)
    done = np.arange(2 * STEPS) / (2 * STEPS)
    expected = 1e-5 + (BACKBONE_LR - 1e-5) * 0.5 * (1 + np.cos(np.pi * done))
    expected[:2] = BACKBONE_LR / 2, BACKBONE_LR
    assert [rate["backbone"] for _, rate in module.rates] == pytest.approx(expected.tolist())


@pytest.mark.parametrize("accumulate", [1, 3])
def test_warm_up_ends_with_the_first_epoch_in_optimizer_steps(compiled, tmp_path, accumulate):
    module, run = scripted_run(
        compiled, tmp_path, [0.6, 0.7], max_epochs=2, unfreeze_after=0, warmup_steps=100, accumulate=accumulate
    )
    steps = math.ceil(STEPS / accumulate)  # the last, smaller group steps too
    expected = [(step + 1) / steps for step in range(steps)] + [1.0] * steps
    assert [rate["backbone"] / BACKBONE_LR for _, rate in module.rates] == pytest.approx(expected)
    assert [row.step for row in run.state.rows] == [steps, 2 * steps]


@pytest.mark.parametrize(
    ("unfreeze_after", "stages"), [(None, [1, 1, 1]), (5, [1, 1, 1]), (0, [2, 2, 2]), (1, [1, 2, 2])]
)
def test_unfreeze_after(compiled, tmp_path, unfreeze_after, stages):
    _, run = scripted_run(compiled, tmp_path, [0.6, 0.7, 0.8], max_epochs=3, unfreeze_after=unfreeze_after)
    assert [row.stage for row in run.state.rows] == stages


def test_scheduler_stopping_and_best_watch_val_auc_upwards(compiled, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("seqsetvae.training.stages.pl.Trainer.fit", lambda self, *_, **__: made.append(self))
    run_stages(fine_tuner(compiled), compiled, tmp_path, unfreeze_after=0, lr_patience=3, es_patience=7)
    (trainer,) = made
    stop, best = trainer.early_stopping_callback, trainer.checkpoint_callbacks[0]
    assert (stop.monitor, stop.mode, stop.patience, stop.min_delta) == ("val_auc", "max", 7, 0)
    assert not stop._check_on_train_epoch_end  # it counts validations
    assert (best.monitor, best.mode) == ("val_auc", "max")
    (plateau,) = [callback for callback in trainer.callbacks if type(callback).__name__ == "Plateau"]
    assert (plateau.watched.metric, plateau.watched.mode) == ("val_auc", "max")
    assert plateau.options == {"factor": 0.5, "patience": 3, "min_lr": 1e-6}
    assert trainer.lr_scheduler_configs == []
    assert trainer.checkpoint_callbacks[-1] is trainer.callbacks[-1]
    assert trainer.checkpoint_callbacks[-1].monitor is None


def test_parameter_groups_are_named_and_only_matrices_decay(compiled):
    module = fine_tuner(compiled)
    assert [group["name"] for group in module.configure_optimizers().param_groups] == ["head", "head_no_decay"]
    module.unfreeze_backbone()
    groups = module.configure_optimizers().param_groups
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in groups] == [
        ("head", HEAD_LR, 0.01),
        ("head_no_decay", HEAD_LR, 0.0),
        ("backbone", BACKBONE_LR, 0.01),
        ("backbone_no_decay", BACKBONE_LR, 0.0),
    ]
    assert all((value.ndim >= 2) == (group["weight_decay"] > 0) for group in groups for value in group["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))
