"""--summaries beside a checkpoint of SeqSetVAE: training, both stages, the checkpoint, and every mode that reads it."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqsetvae.batches.loading import collate
from seqsetvae.checkpoint.finetuned import Loaded, load_finetuned
from seqsetvae.cli import MODES
from seqsetvae.cli.command_line import resolve
from seqsetvae.cli.config import load_config
from seqsetvae.cohort import Cohort
from seqsetvae.evaluation.contributions import deletion_test
from seqsetvae.models import trees
from seqsetvae.models.beside import VALUES, BesideSummaries
from seqsetvae.runs.scoring import open_scorer
from seqsetvae.training.checkpoints import LastCheckpoint
from tests.command import argv, call, command, finetune, refused, rows_of, run_of, succeeded
from tests.prefixes import cut_after
from tests.training.helpers import load
from tests.training.resuming import EVERY_STEP, FINETUNING, STEPS, assert_same_run, killed_at, resume
from train_optimized import CONFIG_FILE

pytest.importorskip("lightgbm", reason="boosted trees need lightgbm")


@pytest.fixture(autouse=True)
def small_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "ROUNDS", 15)


@pytest.fixture(scope="module")
def trained(pretrained: Path, compiled: Cohort, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(run folder, what was printed) of a run with the recipe, but for its length and the weights of the average."""
    root = tmp_path_factory.mktemp("summaries")
    words: dict[str, Any] = {"pretrained_ckpt": pretrained, "data_dir": compiled.path, "output_root_dir": root}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "ROUNDS", 15)
        printed = succeeded(command("finetune", **words, summaries=True, max_epochs=3, average="fixed"))
    return run_of(root), printed


def test_the_frozen_backbone_stays_that_of_the_checkpoint_and_its_features_are_cached(trained, pretrained):
    run, printed = trained
    assert "Settings from the recipe of --summaries: cls_head_lr 0.002" in printed
    assert "Computed the features of the frozen backbone" in printed
    assert [row["stage"] for row in rows_of(run)] == ["1", "1", "1"]
    assert {name for name in rows_of(run)[0] if name.startswith("lr_")} == {"lr_head", "lr_summaries", "lr_backbone"}
    state, before = load(run / "checkpoints" / "best.ckpt")["state_dict"], load(pretrained)["state_dict"]
    frozen = {name.removeprefix("backbone.main."): name for name in state if name.startswith("backbone.main.")}
    assert set(frozen) <= set(before)
    assert all(torch.equal(state[name], before[short]) for short, name in frozen.items())
    assert state["backbone.summaries.weight"].abs().max() > 0


def test_every_mode_gives_what_training_validated(trained, compiled, tmp_path):
    run, _ = trained
    last = rows_of(run)[-1]
    said = succeeded(command("evaluate", ckpt=run, split="valid", output=tmp_path / "one"))
    assert f"{float(last['val_auc']):.4f}" in said
    exported = tmp_path / "exported"
    succeeded(call(argv(mode="export", ckpt=run, output=exported, data_dir=compiled.path)))
    assert (
        "summaries"
        in json.loads((exported / "card.json").read_text(encoding="utf-8"))["checkpoint"]["hyper_parameters"]
    )
    files = []
    for name, ckpt in (("run", run), ("exported", exported)):
        files.append(tmp_path / f"{name}.csv")
        succeeded(command("predict", ckpt=ckpt, split="valid", data_dir=compiled.path, output=files[-1]))
    logits = [[row["logit"] for row in csv.DictReader(file.open(encoding="utf-8"))] for file in files]
    assert logits[0] == logits[1]
    assert load_finetuned(run / "checkpoints" / "best.ckpt").model.members is not None


def test_the_risk_after_a_set_is_that_of_the_stay_cut_off_after_it(trained, compiled, tmp_path):
    output, split = tmp_path / "sets.csv", compiled.split("test")
    flags = {"split": "test", "precision": "64-true", "batch_size": 50}
    succeeded(command("predict", ckpt=trained[0], output=output, every_set=True, **flags))
    rows = list(csv.DictReader(output.read_text(encoding="utf-8").splitlines()))
    of_stay = rows[split.stay_offset[7] : split.stay_offset[8]]
    finetuned = load_finetuned(trained[0] / "checkpoints" / "best.ckpt", torch.float64)
    expected = [_logit_of_cut_stay(finetuned, compiled, 7, n_sets) for n_sets in range(1, len(of_stay) + 1)]
    assert [float(row["logit"]) for row in of_stay] == pytest.approx(expected, abs=1e-9)


def _logit_of_cut_stay(finetuned: Loaded, cohort: Cohort, stay: int, n_sets: int) -> float:
    """The prediction in double precision for a test stay that has only its first sets."""
    summaries, cut = finetuned.model.backbone.summaries, cut_after(cohort.split("test"), stay, n_sets)
    of_backbone = finetuned.trained_on.transform.with_unknown(cohort.vocabulary, finetuned.trained_on.known)
    alone, summarized = (
        collate(cut, np.array([0]), dtype=np.float64, change=transform.change(cohort))
        for transform in (of_backbone, VALUES)
    )
    alone.prepared = summaries.summarizer(summaries.variable_table(cohort))(summarized)
    with torch.no_grad():
        return finetuned.model(alone, torch.from_numpy(cohort.embeddings.copy()).double()).diff(dim=1).item()


def test_contributions_of_summaries_and_of_the_backbone_beside_add_up_to_the_score(trained, compiled, tmp_path):
    """What the backbone made of the values of a stay is one entry, and belongs to no variable."""
    stay, flags = compiled.split("valid").stay_id[0], {"split": "valid", "precision": "64-true"}
    succeeded(command("predict", ckpt=trained[0], explain=stay, output=tmp_path / "why.csv", **flags))
    succeeded(command("predict", ckpt=trained[0], reasons=2, output=tmp_path / "risks.csv", **flags))
    rows = list(csv.DictReader((tmp_path / "why.csv").open(encoding="utf-8")))
    risks = {row["stay_id"]: row for row in csv.DictReader((tmp_path / "risks.csv").open(encoding="utf-8"))}
    of_variable: dict[str, float] = {}
    for row in rows:
        of_variable[row["variable"]] = of_variable.get(row["variable"], 0.0) + float(row["contribution"])
    assert sum(of_variable.values()) == pytest.approx(float(risks[str(stay)]["logit"]), abs=5e-3)
    assert of_variable["pretrained network"] != 0
    assert sum(name in compiled.vocabulary for name in of_variable) > 2
    strongest = max(of_variable.keys() - {"(base)"}, key=lambda name: abs(of_variable[name]))
    assert risks[str(stay)]["contribution_1"].startswith(strongest)
    assert all(row["contribution_2"] for row in risks.values())


def test_without_the_variables_that_raise_it_a_score_falls(trained, compiled):
    """Their summaries are those of a stay that lacks them, and the backbone beside reads their training mean."""
    words = argv(mode="predict", ckpt=trained[0], output="none.csv", split="valid")
    settings = resolve(load_config(CONFIG_FILE), words, MODES).settings
    groups = settings.data, settings.loader, settings.run
    scorer = open_scorer(trained[0], *groups, ["valid"], labelled=False)
    explainer = scorer.explainer("valid")
    n_sets = np.diff(compiled.split("valid").stay_offset)[:8]
    found = list(explainer.explain(np.arange(8), n_sets))
    result = deletion_test(explainer, found, np.arange(8), np.random.default_rng(0))
    assert result is None or result["largest"] > result["random"]
    names = [name for name in compiled.vocabulary if name in found[0].names]
    assert explainer.score_without(0, []) == pytest.approx(found[0].score, abs=1e-5)
    assert explainer.score_without(0, names) != pytest.approx(found[0].score, abs=1e-5)


def test_the_backbone_of_such_a_checkpoint_is_a_pretrained_one(trained, compiled, tmp_path):
    printed = succeeded(finetune(trained[0], compiled.path, tmp_path, max_epochs=1, unfreeze_after=1))
    assert "missing                  0" in printed
    assert "not recognised           0" in printed


@pytest.mark.parametrize(
    "tuning",
    [
        "two_stage",
        "lora",
        pytest.param("last_layers", marks=pytest.mark.slow),
        pytest.param("layer_decay", marks=pytest.mark.slow),
    ],
)
def test_the_backbone_can_be_unfrozen_in_every_way(pretrained, compiled, tmp_path, tuning):
    flags = {"summaries": True, "tree_models": 0, "tuning": tuning, "max_epochs": 2, "unfreeze_after": 1}
    succeeded(finetune(pretrained, compiled.path, tmp_path, **flags))
    run = run_of(tmp_path)
    assert [row["stage"] for row in rows_of(run)] == ["1", "2"]
    said = succeeded(command("evaluate", ckpt=run, split="valid", output=tmp_path))
    assert f"{float(rows_of(run)[-1]['val_auc']):.4f}" in said
    assert isinstance(load_finetuned(run / "checkpoints" / "best.ckpt").model.backbone, BesideSummaries)


@pytest.mark.slow  # the ordinary tests resume an average in tests/training/test_resume.py
def test_a_killed_run_is_resumed_to_the_same_result(pretrained, compiled, tmp_path):
    flags = {"summaries": True, "tree_models": 1, "average": "fixed", **FINETUNING, **EVERY_STEP, "max_epochs": 3}
    succeeded(finetune(pretrained, compiled.path, tmp_path / "whole", **flags))
    with killed_at(LastCheckpoint, "on_train_batch_end", STEPS + 5):  # in the second frozen epoch
        finetune(pretrained, compiled.path, tmp_path / "killed", **flags)
    resume(run_of(tmp_path / "killed"))
    assert_same_run(run_of(tmp_path / "killed"), run_of(tmp_path / "whole"))


def test_without_the_flag_everything_is_as_before_and_says_so(finished):
    run, printed = finished
    assert "Summaries beside the backbone: none (--summaries false), so the numbers are those of earlier" in printed
    content = load(run / "checkpoints" / "best.ckpt")
    assert "summaries" not in content["hyper_parameters"]
    assert not [name for name in content["state_dict"] if "summaries" in name]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"architecture": "variable_summaries"}, "summaries: received True; allowed: false with --architecture"),
        ({"from_random_weights": True}, "unfreeze_after: received None; allowed: 0 with --from_random_weights"),
    ],
)
def test_settings_that_do_not_go_together(compiled, tmp_path, flags, problem):
    words = {"summaries": True, "data_dir": compiled.path, "output_root_dir": tmp_path, **flags}
    assert problem in refused(command("finetune", **words))


def test_random_weights_train_with_summaries_from_the_start(compiled, tmp_path):
    words = {"from_random_weights": True, "unfreeze_after": 0, "preset": "small", "summaries": True, "max_epochs": 1}
    succeeded(command("finetune", data_dir=compiled.path, output_root_dir=tmp_path, tree_models=0, **words))
    assert np.isfinite(float(rows_of(run_of(tmp_path))[0]["val_loss"]))
