"""--mode finetune: what a run writes and prints, repeatability, and the ways to run it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqsetvae.checkpoint.backbone import read_checkpoint
from seqsetvae.models.seqsetvae.sizes import PRESETS, RECIPES
from tests import tiny
from tests.command import command, finetune, refused, rows_of, run_of, succeeded
from tests.figures import printed_figure
from tests.training.helpers import load

FIGURES = ("flow", "loss", "val_auc", "val_auprc", "learning_rates")  # of the report


def test_a_run_folder_holds_exactly_this(finished):
    run, _ = finished
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    (events,) = (name for name in files if name.startswith("tensorboard/events.out.tfevents."))
    assert files == {
        "config.json",
        "metrics.csv",
        "summary.json",
        "summary.txt",
        "run_state.json",
        "calibration.json",
        "train.log",
        "report.html",
        *(f"figures/{name}.{kind}" for name in FIGURES for kind in ("svg", "png")),
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        events,
    }
    assert {path.name for path in run.parent.iterdir()} == {run.name, "cohorts", "features"}


def test_the_config_of_a_run_is_complete(finished, compiled):
    config = json.loads((finished[0] / "config.json").read_text(encoding="utf-8"))
    assert config["settings"]["batch_size"] == 6
    assert config["settings"]["head_dropout"] == 0.1
    assert config["sizes"]["latent_dim"] == 32
    assert config["partial_backbone"] is False
    assert config["pretrained"]["missing"] == []
    assert config["cohort"]["content"] == compiled.content_hash
    assert Path(config["cohort"]["path"]).is_absolute()


def test_a_run_prints_what_was_loaded_and_its_progress(finished):
    _, said = finished
    n_weights = len(tiny.tiny_backbone().state_dict())
    assert f"✅ Loaded {n_weights} parameters successfully" in said
    for text in (
        "Data: ",
        "epoch  stage  train_loss  val_loss  val_auc  val_auprc  stays/s",
        "\n  1/3      1 ",
        "\n  3/3      2 ",
        "Best val_auc",
        "training stays/s",
        "waiting for data",
        "values trained",
        "device",
    ):
        assert text in said
    assert "\x1b" not in said  # no control codes where nobody looks at a terminal


def test_train_log_holds_all_that_was_printed(finished):
    run, printed = finished
    assert (run / "train.log").read_text(encoding="utf-8") == printed


def test_the_summary_agrees_with_metrics_csv(finished):
    run, _ = finished
    rows, summary = rows_of(run), json.loads((run / "summary.json").read_text(encoding="utf-8"))
    best = max(rows, key=lambda row: float(row["val_auc"]))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["stage"] for row in rows] == ["1", "1", "2"]
    assert best["val_auc"] in [str(value) for value in _leaves(summary)]
    assert (run / "summary.txt").read_text(encoding="utf-8").startswith("Best val_auc")


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list) else [value]


def test_checkpoints_load_without_any_allow_list(finished):
    for name in ("best.ckpt", "last.ckpt"):
        content = load(finished[0] / "checkpoints" / name)
        assert {"state_dict", "hyper_parameters", "optimizer_states", "callbacks"} <= content.keys()


def test_the_backbone_of_a_fine_tuned_checkpoint_can_be_read(finished):
    best = finished[0] / "checkpoints" / "best.ckpt"
    checkpoint, state = read_checkpoint(best), load(best)["state_dict"]
    for name in tiny.tiny_backbone().state_dict():
        assert torch.equal(checkpoint.weights[name], state[f"backbone.{name}"])
    assert checkpoint.hyper_parameters["heads"] == 2
    assert checkpoint.trained_on.variables is not None
    assert "heart rate" in checkpoint.trained_on.variables.names


def test_a_compiled_cohort_and_worker_processes_give_the_same_run(finished, pretrained, compiled, tmp_path):
    assert finetune(pretrained, compiled.path, tmp_path, num_workers=2)[0] == 0
    assert rows_of(run_of(tmp_path)) == rows_of(finished[0])


def test_16_mixed_is_bf16_mixed_on_a_cpu_which_is_said_and_recorded(pretrained, compiled, tmp_path):
    flags = {"precision": "16-mixed", "max_epochs": 2, "unfreeze_after": 1}
    printed = succeeded(finetune(pretrained, compiled.path, tmp_path, **flags))
    run = run_of(tmp_path)
    assert json.loads((run / "config.json").read_text(encoding="utf-8"))["precision"] == "bf16-mixed"
    _, said, _ = command("evaluate", ckpt=run, split="valid", precision="16-mixed")
    for each in (printed, said):
        assert "precision: 16-mixed needs a GPU; on this CPU it is bf16-mixed" in each
    assert printed_figure(said, "AUROC") == f"{max(float(row['val_auc']) for row in rows_of(run)):.4f}"
    state = load(run / "checkpoints" / "best.ckpt")["state_dict"]
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_balanced_weighs_a_positive_by_negatives_over_positives(pretrained, compiled, tmp_path):
    flags = {"class_weight": "balanced", "head_pooling": "mean", "gradient_accumulation_steps": 3}
    assert finetune(pretrained, compiled.path, tmp_path, max_epochs=1, unfreeze_after=0, **flags)[0] == 0
    label = compiled.split("train").label
    saved = load(run_of(tmp_path) / "checkpoints" / "best.ckpt")["hyper_parameters"]["loss"]
    assert saved["positive_weight"] == float((label == 0).sum() / (label == 1).sum()) > 1


def test_a_checkpoint_with_numpy_numbers_fine_tunes_to_plain_files(compiled, tmp_path):
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "pretrained")
    content["hyper_parameters"] |= {"heads": np.int64(2), "transformer_dropout": np.float64(0.1)}
    torch.save(content, tmp_path / "old.ckpt")
    flags = {"max_epochs": 1, "loss": "focal", "focal_alpha": 0.25}
    succeeded(finetune(tmp_path / "old.ckpt", compiled.path, tmp_path, **flags))
    assert load(run_of(tmp_path) / "checkpoints" / "best.ckpt")["hyper_parameters"]["sizes"]["heads"] == 2
    settings = json.loads((run_of(tmp_path) / "config.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["loss"], settings["focal_alpha"]) == ("focal", 0.25)


def test_a_partial_backbone_is_recorded(compiled, tmp_path):
    path = tiny.write_checkpoint(tmp_path / "setvae.ckpt", tiny.tiny_backbone(), "setvae alone")
    small = {"ff_dim": 48, "transformer_heads": 4, "transformer_layers": 2}
    assert "SetVAE alone" in refused(finetune(path, compiled.path, tmp_path / "refused", **small))
    assert not (tmp_path / "refused").exists() or not list((tmp_path / "refused").glob("finetune-*"))
    succeeded(finetune(path, compiled.path, tmp_path, **small, max_epochs=1, allow_partial_backbone=True))
    config = json.loads((run_of(tmp_path) / "config.json").read_text(encoding="utf-8"))
    assert config["partial_backbone"] is True
    assert "post_transformer_norm.weight" in config["pretrained"]["missing"]


def test_random_weights_are_recorded(compiled, tmp_path):
    flags = {"from_random_weights": True, "preset": "small", "unfreeze_after": 0, "max_epochs": 1, "batch_size": 8}
    flags |= {"value_clip": 3, "min_count": 0}
    out = succeeded(command("finetune", data_dir=compiled.path, output_root_dir=tmp_path, **flags))
    assert "RANDOM BACKBONE" in out
    assert "Values: z-scores clipped at ±3" in out
    assert "Random backbone: nothing was pretrained" in (run_of(tmp_path) / "summary.txt").read_text(encoding="utf-8")
    config = json.loads((run_of(tmp_path) / "config.json").read_text(encoding="utf-8"))
    assert config["pretrained"] is None
    assert config["sizes"]["latent_dim"] == PRESETS["small"]["latent_dim"]


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_figures_and_checkpoint_keys(finished, pretrained, compiled, tmp_path):
    succeeded(finetune(pretrained, compiled.path, tmp_path, compile_model=True))
    run = run_of(tmp_path)
    keys = [load(folder / "checkpoints" / "best.ckpt")["state_dict"].keys() for folder in (run, finished[0])]
    assert keys[0] == keys[1]
    frozen = [float(rows_of(folder)[0]["val_auc"]) for folder in (run, finished[0])]
    assert frozen[0] == pytest.approx(frozen[1], abs=1e-3)


def test_a_head_learning_rate_not_above_the_backbones_is_a_warning_and_another_seed_is_another_run(
    finished, pretrained, compiled, tmp_path
):
    _, usual, _ = finetune(pretrained, compiled.path, tmp_path / "a", max_epochs=1, seed=4)
    assert rows_of(run_of(tmp_path / "a"))[0]["train_loss"] != rows_of(finished[0])[0]["train_loss"]
    _, said, _ = finetune(pretrained, compiled.path, tmp_path / "b", max_epochs=1, lr=3e-3)
    assert "lr (0.003, backbone) should be well below cls_head_lr (0.003, head)" in said
    assert "should be well below" not in usual


@pytest.mark.parametrize("value", ["false", "true"])
def test_running_statistics_may_be_named_for_a_checkpoint_that_has_none(pretrained, compiled, tmp_path, value):
    said = succeeded(finetune(pretrained, compiled.path, tmp_path, max_epochs=1, running_statistics=value))
    assert ("running_statistics True" in said) is (value == "true")


def test_the_recipe_of_running_statistics_holds_where_the_user_sets_nothing(compiled, tmp_path):
    flags = {"from_random_weights": True, "preset": "small", "max_epochs": 1, "head_members": 2}
    flags |= {"data_dir": compiled.path, "output_root_dir": tmp_path, "running_statistics": True}
    said = succeeded(command("finetune", **flags))
    used = json.loads((run_of(tmp_path) / "config.json").read_text(encoding="utf-8"))["settings"]
    recipe = RECIPES["running_statistics"]
    assert {name: used[name] for name in recipe} == recipe | {"max_epochs": 1, "head_members": 2}
    assert "Settings from the recipe of --running_statistics: cls_head_lr 0.001" in said
