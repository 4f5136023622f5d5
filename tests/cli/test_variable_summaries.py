"""Fine-tuning the network on variable summaries: recipe, trees, averaged weights, and the last epoch kept."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import finetune_config_optimized as config
from seqsetvae.batches.loading import collate
from seqsetvae.checkpoint.finetuned import Loaded, load_finetuned
from seqsetvae.cli import MODES
from seqsetvae.cli.command_line import resolve
from seqsetvae.cohort import Cohort, open_cohort
from seqsetvae.evaluation.results import evaluation_schema
from seqsetvae.models import trees, variable_summaries
from seqsetvae.runs import out_of_fold
from seqsetvae.runs.finetune import for_stays
from seqsetvae.system.schema import read_checked
from tests.command import argv, call, command, finetune, refused, rows_of, run_of, succeeded
from tests.prefixes import cut_after

pytest.importorskip("lightgbm", reason="boosted trees need lightgbm")


@pytest.fixture(autouse=True)
def small_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "ROUNDS", 15)


@pytest.fixture(scope="module")
def trained(compiled: Cohort, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(run folder, what was printed) of a run that tests only read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "ROUNDS", 15)
        return _train(compiled, tmp_path_factory.mktemp("summaries"), average=None)


def _train(compiled: Cohort, root: Path, **flags: Any) -> tuple[Path, str]:
    """A run and what it printed; a flag None stands for the recipe's value in place of the usual one of these tests."""
    usual: dict[str, Any] = {"architecture": "variable_summaries", "max_epochs": 3, "data_dir": compiled.path}
    usual |= {"output_root_dir": root, "from_random_weights": True, "batch_size": 16, "average": "fixed"}
    usual |= {"tree_models": 2, "head_members": 4}
    words = {name: value for name, value in (usual | flags).items() if value is not None}
    printed = succeeded(command("finetune", **words))
    return run_of(root), printed


def _settings(run: Path) -> dict[str, Any]:
    return json.loads((run / "config.json").read_text(encoding="utf-8"))["settings"]


def test_the_recipe_holds_where_the_user_sets_nothing(trained):
    run, printed = trained
    assert "Settings from the recipe of variable_summaries: cls_head_lr 0.002, lr 0.0003, weight_decay 0.01" in printed
    used = _settings(run)
    own = {"max_epochs": 3, "batch_size": 16, "tree_models": 2, "head_members": 4}
    assert {name: used[name] for name in variable_summaries.RECIPE} == variable_summaries.RECIPE | own


def test_seqsetvae_is_trained_as_the_config_file_says(finished):
    used = _settings(finished[0])
    assert (used["keep"], used["lr_schedule"], used["ema_decay"], used["tree_models"]) == ("best", "plateau", None, 0)


def test_evaluate_gives_the_metrics_of_the_last_epoch_from_the_checkpoint_alone(trained, compiled, tmp_path):
    """Trees, quantiles and averaged weights are in best.ckpt, which holds the last epoch."""
    run, printed = trained
    last = rows_of(run)[-1]
    assert f"Last val_auc {float(last['val_auc']):.4f} at epoch 3 of 3" in printed
    checkpoint = Path(shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "moved.ckpt"))
    said = succeeded(command("evaluate", ckpt=checkpoint, split="valid", data_dir=compiled.path, batch_size=7))
    assert f"{float(last['val_auc']):.4f}" in said
    assert f"{float(last['val_auprc']):.4f}" in said
    for name in ("network", "trees", "random trees", "linear model"):
        assert f"compared with its member {name}, weight 0." in said
    members = load_finetuned(checkpoint).model.members
    assert members is not None
    assert [member.name for member in members.of] == ["network", "trees", "random trees", "linear model"]
    recorded = json.loads((run / "config.json").read_text(encoding="utf-8"))["members"]
    assert recorded == members.said()
    assert sum(each["weight"] for each in recorded.values()) == pytest.approx(1)
    assert len(members.as_plain()["trees"]) == 2


def test_a_checkpoint_of_another_encoding_is_one_error_for_evaluation_and_training(compiled, tmp_path):
    run, printed = _train(compiled, tmp_path, tree_models=0, max_epochs=1)
    assert "Boosted trees" not in printed
    assert load_finetuned(run / "checkpoints" / "best.ckpt").model.members is None
    content, old = torch.load(run / "checkpoints" / "best.ckpt", weights_only=False), tmp_path / "old.ckpt"
    content["hyper_parameters"]["sizes"]["summary_encoding"] = "piecewise_linear"
    torch.save(content, old)
    for mode, flags in (("evaluate", {"ckpt": old, "split": "valid"}), ("finetune", {"pretrained_ckpt": old})):
        words = {"architecture": "variable_summaries"} if mode == "finetune" else {}
        status, _, errors = command(mode, data_dir=compiled.path, output_root_dir=tmp_path / "two", **flags, **words)
        assert (status, errors.count("\n")) == (2, 1)
        assert f"{old}: records summary_encoding = 'piecewise_linear', which is gone" in errors
        assert "the last version with it is 0.1.0" in errors


def test_checkpoints_hold_averaged_weights(compiled, tmp_path):
    run, _ = _train(compiled, tmp_path, ema_decay=0.9)
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=False)
    averaged, current = content["state_dict"], content["current_model_state"]
    assert not torch.equal(averaged["backbone.weight"], current["backbone.weight"])
    assert torch.equal(averaged["backbone.edges"], current["backbone.edges"])  # what was fitted is no average


@pytest.mark.parametrize(
    ("average", "weights"), [("fixed", {"network": 0.3, "trees": 0.7}), ("network", None), ("trees", {"network": 0.0})]
)
def test_the_average_may_be_fixed_or_of_one_kind(compiled, tmp_path, average, weights):
    flags = {"max_epochs": None} if average == "trees" else {}
    run, _ = _train(compiled, tmp_path, tree_models=2, average=average, **flags)
    members = load_finetuned(run / "checkpoints" / "best.ckpt").model.members
    found = None if members is None else {member.name: member.weight for member in members.of}
    if weights is None:
        assert found is None
    else:
        assert found is not None
        assert {name: found[name] for name in weights} == weights
    assert len(rows_of(run)) == (1 if average == "trees" else 3)
    assert [path.name for path in tmp_path.iterdir()] == [run.name]  # nothing is left of what weights are chosen by


@pytest.mark.parametrize(("flags", "epochs"), [([], 1), (["--max_epochs", "12"], 12)])
def test_a_network_without_weight_trains_for_one_epoch_unless_the_user_says_otherwise(compiled, flags, epochs):
    words = ["finetune", "--architecture", "variable_summaries", "--from_random_weights", "--average", "trees", *flags]
    settings = resolve(config, [*words, "--data_dir", str(compiled.path)], MODES).settings
    assert settings.schedule.max_epochs == 12  # also that of the recipe
    assert for_stays(settings, open_cohort(compiled.path)).schedule.max_epochs == epochs


def test_the_network_does_not_depend_on_how_weights_are_chosen(compiled, tmp_path):
    """The network is the same to the last bit whether others were trained out of fold before it."""
    runs = {each: _train(compiled, tmp_path / each, tree_models=1, average=each)[0] for each in ("fixed", "folds")}
    states = [torch.load(run / "checkpoints" / "best.ckpt", weights_only=False)["state_dict"] for run in runs.values()]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_weights_chosen_out_of_fold_need_one_process(compiled, tmp_path):
    words = {"architecture": "variable_summaries", "from_random_weights": True, "data_dir": compiled.path, "devices": 2}
    errors = refused(command("finetune", output_root_dir=tmp_path, **words))
    assert "average: received folds; allowed with one process" in errors


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"architecture": "seqsetvae", "tree_models": 1, "unfreeze_after": 0}, "try --architecture variable_summaries"),
        (
            {"architecture": "seqsetvae", "average": "trees", "unfreeze_after": 0},
            "average: received trees; this architecture has nothing beside its network; try --architecture",
        ),
        ({"tree_models": 0, "average": "trees"}, "average: received trees; allowed with --tree_models 1 or more"),
        (
            {"distillation": 0.6},
            "--distillation: no such flag; gone: it gained nothing beside tree_models; the last version",
        ),
        ({"unfreeze_after": 2}, "unfreeze_after: received 2; allowed: 0 with --from_random_weights"),
    ],
)
def test_settings_that_do_not_go_together(compiled, tmp_path, flags, problem):
    words = {"architecture": "variable_summaries", "from_random_weights": True, "data_dir": compiled.path, **flags}
    assert problem in refused(command("finetune", output_root_dir=tmp_path, **words))


def test_a_missing_library_is_found_before_training(compiled, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    monkeypatch.setattr(out_of_fold, "_part", None)  # nor is a network trained out of fold
    words = {"architecture": "variable_summaries", "from_random_weights": True, "data_dir": compiled.path}
    assert "pip install lightgbm" in refused(command("finetune", output_root_dir=tmp_path, **words))
    assert not list(tmp_path.glob("finetune-*"))


def test_an_ensemble_head_and_averaged_weights_serve_seqsetvae_too(pretrained, compiled, tmp_path):
    flags = {"head_members": 4, "ema_decay": 0.9, "lr_schedule": "cosine", "keep": "last"}
    succeeded(finetune(pretrained, compiled.path, tmp_path, **flags))
    run = run_of(tmp_path)
    last = rows_of(run)[-1]
    assert float(last["lr_backbone"]) < 1e-4 < 1e-3  # it has fallen along the cosine
    _, said, _ = command("evaluate", ckpt=run, split="valid")
    assert f"{float(last['val_auc']):.4f}" in said
    assert np.isfinite(float(last["val_loss"]))


def test_other_precisions_train_and_evaluate(compiled, tmp_path):
    run, _ = _train(compiled, tmp_path, precision="bf16-mixed")
    _, said, _ = command("evaluate", ckpt=run, split="valid", precision="bf16-mixed")
    assert f"{float(rows_of(run)[-1]['val_auc']):.4f}" in said


def test_a_run_is_repeatable_and_worker_processes_prepare_the_same_batches(compiled, tmp_path):
    one, other = (_train(compiled, tmp_path / str(workers), num_workers=workers, max_epochs=2) for workers in (0, 1))
    assert rows_of(one[0]) == rows_of(other[0])


def test_contributions_add_up_to_the_logit_and_the_report_has_them(trained, compiled, tmp_path):
    run, _ = trained
    flags: dict[str, Any] = {"ckpt": run, "split": "test"}
    stay = int(compiled.split("test").stay_id[3])
    status, _, errors = command("predict", output=tmp_path / "why.csv", explain=stay, **flags)
    assert status in (0, 3), errors
    status, _, errors = command("predict", output=tmp_path / "risks.csv", reasons=3, **flags)
    assert status in (0, 3), errors
    why, risks = (
        list(csv.DictReader((tmp_path / name).read_text(encoding="utf-8").splitlines()))
        for name in ("why.csv", "risks.csv")
    )
    (risk,) = (row for row in risks if row["stay_id"] == str(stay))
    assert sum(float(row["contribution"]) for row in why) == pytest.approx(float(risk["logit"]), abs=0.01)
    by_variable: dict[str, float] = {}
    for row in why[1:]:
        by_variable[row["variable"]] = by_variable.get(row["variable"], 0) + float(row["contribution"])
    (first, *_) = sorted(by_variable, key=lambda name: -abs(by_variable[name]))
    assert risk["contribution_1"].startswith(first)
    assert float(risk["contribution_1"].rpartition(": ")[2]) == pytest.approx(by_variable[first], rel=0.06)

    status, _, errors = command("evaluate", explain="true", **flags)
    assert (status, "explain: received 'true'" in errors) == (2, True)
    words = argv(mode="evaluate", accelerator="cpu", baselines="none", output=tmp_path / "two", **flags)
    succeeded(call([*words, "--explain"]))
    found = read_checked(tmp_path / "two" / "evaluation.json", evaluation_schema)["explanation"]
    assert found["gap"] < 0.01
    assert found["of"] == "log-odds of in_hospital_mortality"
    names = [each["name"] for each in found["courses"]]
    assert names == [f"{kind} alarm {place}" for kind in ("True", "False") for place in (1, 2, 3)]
    logits = {kind: [float(row["logit"]) for row in risks if row["label"] == kind] for kind in "10"}
    highest = [*sorted(logits["1"])[:-4:-1], *sorted(logits["0"])[:-4:-1]]
    assert [each["score"][-1] for each in found["courses"]] == pytest.approx(highest, abs=1e-4)
    assert [each["label"] for each in found["courses"]] == [1, 1, 1, 0, 0, 0]
    status, _, errors = command("evaluate", explain=stay, output=tmp_path / "one", **flags)
    (course,) = read_checked(tmp_path / "one" / "evaluation.json", evaluation_schema)["explanation"]["courses"]
    assert course["score"][-1] == pytest.approx(float(risk["logit"]), abs=1e-4)
    assert course["reasons"][0]["contribution"] == pytest.approx(by_variable[first], abs=1e-4)
    assert str(stay) not in (tmp_path / "one" / "evaluation.json").read_text(encoding="utf-8")


def test_the_risk_after_a_set_is_that_of_the_stay_cut_off_after_it(trained, compiled, tmp_path):
    run, _ = trained
    output = tmp_path / "sets.csv"
    flags = {"split": "test", "precision": "64-true", "batch_size": 50}
    said = succeeded(command("predict", ckpt=run, output=output, every_set=True, **flags))
    assert "the head was trained on whole stays only" in said
    rows = list(csv.DictReader(output.read_text(encoding="utf-8").splitlines()))
    split = compiled.split("test")
    assert [float(row["minute"]) for row in rows] == split.minute.tolist()
    assert [int(row["stay_id"]) for row in rows] == np.repeat(split.stay_id, np.diff(split.stay_offset)).tolist()
    for stay in (0, 19):
        of_stay = rows[split.stay_offset[stay] : split.stay_offset[stay + 1]]
        assert [int(row["set_index"]) for row in of_stay] == list(range(len(of_stay)))
        expected = [_logit_of_cut_stay(run, compiled, stay, n_sets) for n_sets in range(1, len(of_stay) + 1)]
        assert [float(row["logit"]) for row in of_stay] == pytest.approx(expected, abs=1e-9)


@cache
def _in_double(path: Path) -> Loaded:
    return load_finetuned(path, torch.float64)


def _logit_of_cut_stay(run: Path, cohort: Cohort, stay: int, n_sets: int) -> float:
    """The prediction in double precision for a test stay that has only its first sets."""
    finetuned = _in_double(run / "checkpoints" / "best.ckpt")
    change = finetuned.trained_on.transform.with_unknown(cohort.vocabulary, finetuned.trained_on.known)
    alone = collate(
        cut_after(cohort.split("test"), stay, n_sets), np.array([0]), dtype=np.float64, change=change.change(cohort)
    )
    with torch.no_grad():
        logits = finetuned.model(alone, finetuned.model.backbone.variable_table(cohort))
    return logits.diff(dim=1).item()
