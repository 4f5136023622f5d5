"""--mode crossvalidate: predictions of every fold, continued where it stopped, and the table against scikit-learn."""

import gc
import json
import shutil
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from model_optimized import SeqSetVAEFineTuner
from seqsetvae.cohort.folds import gather
from seqsetvae.evaluation.crossvalidation import as_csv, read_columns, result_lines, results
from seqsetvae.runs import crossvalidate, crossvalidation_jobs, pretrain
from seqsetvae.runs.crossvalidation_jobs import train_and_predict
from seqsetvae.tasks import fitting
from tests.command import command, refused, succeeded
from tests.training.resuming import killed_at

pytest.importorskip("lightgbm", reason="the baselines need lightgbm")


def _columns(seed: int, n: int = 200) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.3).astype(int)
    logit = rng.normal(size=n) + label
    other = rng.normal(size=n) + 0.5 * label
    return {"stay_id": np.arange(n), "label": label, "network": logit, "boosted trees": other}


def test_figures_are_means_over_folds_as_scikit_learn_has_them():
    folds = [_columns(seed) for seed in (0, 1, 2)]
    found = results(folds)["models"]["network"]
    for name, metric in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        by_fold = [metric(fold["label"], fold["network"]) for fold in folds]
        assert found[name]["by_fold"] == pytest.approx(by_fold)
        assert found[name]["value"] == pytest.approx(np.mean(by_fold))
        assert found[name]["sd_over_folds"] == pytest.approx(np.std(by_fold))
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
        trees = np.mean([metric(fold["label"], fold["boosted trees"]) for fold in folds])
        assert found["difference"][name]["value"] == pytest.approx(np.mean(by_fold) - trees)


def test_a_model_does_not_differ_from_its_copy():
    folds = [fold | {"copy": fold["boosted trees"]} for fold in (_columns(0), _columns(1))]
    difference = results(folds)["models"]["copy"]["difference"]["auroc"]
    assert difference == {"value": 0, "low": 0, "high": 0}
    entry, printed = results(folds)["models"]["copy"]["auroc"], "\n".join(result_lines(results(folds)))
    assert f"copy           {entry['value']:.4f} ({entry['sd_over_folds']:.4f}) [{entry['low']:.4f}, " in printed


def test_a_baseline_that_is_better_is_said_first():
    folds = [_columns(seed, 600) for seed in (0, 1)]
    rng = np.random.default_rng(0)
    for fold in folds:
        fold["network alone"] = fold["network"]
        fold["linear model alone"] = fold["network"]
        fold["network"] = fold["network"] + 4 * rng.normal(size=600)
        fold["boosted trees"] = rng.normal(size=600)
        fold["logistic regression"] = rng.normal(size=600) + 2 * fold["label"]
    result = results(folds)
    text = result["verdict"]
    assert text.startswith("Network is worse than logistic regression (AUROC 0.")
    assert text.endswith("Use logistic regression instead, until a model is better.")
    assert "boosted trees" not in text
    assert result_lines(result)[0] == f"⚠️  {text}"
    assert next(iter(result)) == "verdict"


@pytest.mark.parametrize(("stays", "is_small"), [(99, True), (100, False)])
def test_of_few_stays_over_all_folds_the_interval_is_said_first(stays, is_small):
    folds = [_columns(seed, stays) | {"stay_id": np.arange(stays) + stays * seed} for seed in (0, 1)]
    label = np.arange(stays) % 2
    folds = [fold | {"label": label, "network": fold["network"] + label} for fold in folds]
    text = results([*folds, *folds])["verdict"]  # two partitions of the same stays
    assert text.startswith(f"Small data: {2 * stays} labelled stays, 98 of the smallest class.") == is_small
    assert ("95 % intervals: AUROC 0." in text) == is_small
    several = results([fold | {"other": fold["network"]} for fold in folds])["verdict"]
    assert several.startswith("network: Small data") == is_small


def test_seeds_are_averaged_and_their_spread_is_that_of_the_mean_over_folds():
    folds = [_columns(seed) for seed in (0, 1, 2)]
    two = [fold | {"network": np.stack([fold["network"], fold["boosted trees"]])} for fold in folds]
    alone = results(folds)["models"]
    found = results(two)["models"]["network"]["auroc"]
    first, second = (alone[name]["auroc"] for name in ("network", "boosted trees"))
    assert found["by_seed"] == pytest.approx([first["value"], second["value"]])
    assert found["by_fold"] == pytest.approx(np.mean([first["by_fold"], second["by_fold"]], axis=0))
    assert found["value"] == pytest.approx((first["value"] + second["value"]) / 2)
    assert found["sd_over_seeds"] == pytest.approx(np.std(found["by_seed"], ddof=1))
    assert first["sd_over_seeds"] is None
    printed = "\n".join(result_lines(results(two)))
    assert f"{found['value']:.4f} ({found['sd_over_folds']:.4f}; {found['sd_over_seeds']:.4f})" in printed
    assert "mean (SD) over folds and over 2 seeds" in printed


def test_the_differences_to_the_first_model_are_paired():
    folds = [_columns(seed) for seed in (0, 1)]
    found = results([fold | {"copy": fold["network"]} for fold in folds], first="network")["models"]
    assert found["copy"]["difference_to_first"]["auprc"] == {"value": 0, "low": 0, "high": 0}
    to_first, to_trees = found["boosted trees"]["difference_to_first"], found["network"]["difference"]
    assert to_first["auroc"]["value"] == pytest.approx(-to_trees["auroc"]["value"])
    assert to_first["auroc"]["low"] == pytest.approx(-to_trees["auroc"]["high"])
    assert "difference_to_first" not in found["network"]


def test_partitions_of_the_same_stays_do_not_narrow_the_interval():
    """A patient is drawn with the predictions of all partitions."""
    fold = _columns(0)
    once, twice = (results([fold] * n)["models"]["network"]["auroc"] for n in (1, 2))
    assert (twice["low"], twice["high"]) == pytest.approx((once["low"], once["high"]), abs=0.006)
    others = [fold, fold | {"stay_id": fold["stay_id"] + 1000}]
    assert results(others)["models"]["network"]["auroc"]["low"] > once["low"] + 0.008
    of_one_patient = [each | {"subject_id": fold["stay_id"]} for each in others]
    assert results(of_one_patient)["resampled"] == "patients"
    assert results(of_one_patient)["models"]["network"]["auroc"]["low"] == pytest.approx(once["low"], abs=0.006)


def test_predictions_read_back_to_the_same_bits(tmp_path):
    columns = _columns(0)
    (tmp_path / "fold.csv").write_bytes(as_csv(columns))
    found = read_columns(tmp_path / "fold.csv")
    assert list(found) == list(columns)
    assert all(np.array_equal(found[name], columns[name]) for name in columns)


def test_finished_folds_are_not_computed_again(pretrained, compiled, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "MOST_ROUNDS", 20)
    flags = {"pretrained_ckpt": pretrained, "data_dir": compiled.path, "output_root_dir": tmp_path, "folds": 2}
    flags |= {"output": tmp_path / "cv", "max_epochs": 2, "batch_size": 20}
    printed = succeeded(command("crossvalidate", **flags))
    assert all(name in printed for name in ("seqsetvae", "boosted trees", "logistic regression"))
    assert "⚠️  The held-out fold chose the epoch or the learning rates" in printed  # as the default settings do
    result = json.loads((tmp_path / "cv" / "crossvalidation.json").read_text(encoding="utf-8"))
    assert result["predictions"] == compiled.split("train").n_stays + compiled.split("valid").n_stays
    one, two = (read_columns(tmp_path / "cv" / f"partition0-fold{fold}.csv") for fold in (0, 1))
    assert not set(one["stay_id"]) & set(two["stay_id"])
    (tmp_path / "cv" / "partition0-fold1.csv").unlink()
    runs = len(list((tmp_path / "cv" / "runs").glob("finetune-*")))
    status, again, _ = command("crossvalidate", **flags)
    assert len(list((tmp_path / "cv" / "runs").glob("finetune-*"))) == runs  # its run is finished; it predicts again
    assert printed.splitlines()[-8:] == again.splitlines()[-8:]
    monkeypatch.setattr(crossvalidate, "results", lambda *_: signal.raise_signal(signal.SIGTERM))
    status, _, errors = command("crossvalidate", **flags)
    assert status == 75
    assert errors.endswith(f"stopped; to resume: the same command with --output {tmp_path / 'cv'}\n")
    errors = refused(command("crossvalidate", **{**flags, "max_epochs": 3}))
    assert "holds folds of other settings" in errors
    assert errors.splitlines()[1:] == ["  max_epochs: 2 there, 3 now"]


def test_a_run_whose_checkpoint_was_replaced_is_trained_again(pretrained, compiled, tmp_path):
    flags = {"pretrained_ckpt": pretrained, "data_dir": compiled.path, "output_root_dir": tmp_path, "folds": 2}
    flags |= {"max_epochs": 1, "batch_size": 20, "baselines": "none", "output": tmp_path / "cv"}
    assert command("crossvalidate", **flags)[0] == 0
    (tmp_path / "cv" / "partition0-fold0.csv").unlink()
    first, second = sorted((tmp_path / "cv" / "runs").glob("finetune-*"))
    before = (tmp_path / "cv" / "crossvalidation.json").read_text(encoding="utf-8")
    shutil.copyfile(second / "checkpoints" / "best.ckpt", first / "checkpoints" / "best.ckpt")
    said = succeeded(command("crossvalidate", **flags))
    assert f"⚠️  {first}: its best.ckpt is not the one that the run ended with." in said
    assert (tmp_path / "cv" / "crossvalidation.json").read_text(encoding="utf-8") == before


def test_a_fold_in_double_precision_is_predicted_in_it(pretrained, compiled, tmp_path):
    flags = {"pretrained_ckpt": pretrained, "data_dir": compiled.path, "output_root_dir": tmp_path, "folds": 2}
    flags |= {"max_epochs": 1, "batch_size": 20, "baselines": "none", "precision": "64-true", "output": tmp_path / "cv"}
    succeeded(command("crossvalidate", **flags))
    logit = read_columns(tmp_path / "cv" / "partition0-fold0.csv")["seqsetvae"]
    assert (logit != logit.astype(np.float32)).any()


def test_no_model_of_a_fold_lives_on_in_the_next(pretrained, compiled, tmp_path, monkeypatch):
    """A sweep of many trainings in one process needs no more memory than its largest one."""
    alive: list[int] = []

    def watched(*settings: Any) -> Any:
        alive.append(sum(type(each) is SeqSetVAEFineTuner for each in gc.get_objects()))
        return train_and_predict(*settings)

    monkeypatch.setattr(crossvalidation_jobs, "train_and_predict", watched)
    flags = {"pretrained_ckpt": pretrained, "data_dir": compiled.path, "output_root_dir": tmp_path, "folds": 3}
    gc.collect()
    gc.disable()  # it must not depend on when Python looks for objects that only refer to each other
    try:
        status, _, errors = command("crossvalidate", **flags, max_epochs=1, batch_size=20, baselines="none")
    finally:
        gc.enable()
    assert status == 0, errors
    assert alive == [alive[0]] * 3


def test_a_fold_that_was_killed_goes_on(pretrained, compiled, tmp_path, monkeypatch):
    flags = {"pretrained_ckpt": pretrained, "data_dir": compiled.path, "output_root_dir": tmp_path, "folds": 2}
    flags |= {"max_epochs": 1, "unfreeze_after": 0, "batch_size": 16, "baselines": "none", "save_every_minutes": 0}
    assert command("crossvalidate", **flags, output=tmp_path / "whole")[0] == 0
    with killed_at(SeqSetVAEFineTuner, "training_step", 3 + 2):  # in the second fold
        command("crossvalidate", **flags, output=tmp_path / "killed")
    assert "Resumed" in succeeded(command("crossvalidate", **flags, output=tmp_path / "killed"))
    for name in ("partition0-fold0.csv", "partition0-fold1.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(list((tmp_path / "killed" / "runs").glob("finetune-*"))) == 2


def test_pretraining_within_a_fold_never_sees_its_held_out_stays(compiled, tmp_path, monkeypatch):
    seen, train = [], pretrain.train

    def watched(settings: Any, opened: Any, *rest: Any) -> Any:
        seen.append({stay for split in opened.cohort.splits.values() for stay in split.stay_id.tolist()})
        assert settings.loader.batch_size == 32
        return train(settings, opened, *rest)

    monkeypatch.setattr(pretrain, "train", watched)
    flags = {"architecture": "variable_summaries", "objective": "forecasting", "pretrain_epochs": 1, "folds": 2}
    flags |= {"tree_models": 0, "baselines": "none", "batch_size": 16, "max_epochs": 1}
    flags |= {"data_dir": compiled.path, "output_root_dir": tmp_path, "output": tmp_path / "cv", "train_fraction": 0.5}
    flags |= {"pretrain_batch_size": 32}
    printed = succeeded(command("crossvalidate", **flags))
    assert printed.count("skipped on purpose       2   objective (2)") == 2
    for fold in (0, 1):
        held_out = set(read_columns(tmp_path / "cv" / f"partition0-fold{fold}.csv")["stay_id"].tolist())
        others = set(read_columns(tmp_path / "cv" / f"partition0-fold{1 - fold}.csv")["stay_id"].tolist())
        assert not seen[fold] & held_out
        assert seen[fold] == others  # all of them, although the network is fine-tuned on half


@pytest.mark.parametrize(("positives", "parts", "warns"), [(3, 3, False), (2, 1, True)])
def test_baselines_are_chosen_on_inner_folds_of_the_training_stays_if_there_can_be_any(
    compiled, capsys, positives, parts, warns
):
    train = compiled.split("train")
    rows = np.concatenate([np.flatnonzero(train.label == 1)[:positives], np.flatnonzero(train.label == 0)])
    cohort = replace(compiled, splits={**compiled.splits, "train": gather("train", [(train, rows)])})
    found = crossvalidation_jobs._inner_folds(cohort, seed=0)
    held_out = set(compiled.split("valid").stay_id.tolist())
    inside = [set(part.split("train").stay_id.tolist()) for part in found]
    chosen_on = [set(part.split("valid").stay_id.tolist()) for part in found]
    assert len(found) == parts
    assert all(not stays & held_out for stays in inside)
    assert all((each == held_out) is warns for each in chosen_on)
    assert ("metrics are optimistic" in capsys.readouterr().out) is warns


def test_pretraining_within_folds_needs_no_checkpoint(compiled, tmp_path):
    flags = {"architecture": "variable_summaries", "pretrain_epochs": 1, "data_dir": compiled.path}
    errors = refused(command("crossvalidate", **flags, output_root_dir=tmp_path))
    assert "it trains only seqsetvae, not variable_summaries; pass --objective forecasting" in errors
    errors = refused(
        command("crossvalidate", **flags, objective="forecasting", from_random_weights=True, output_root_dir=tmp_path)
    )
    assert "pretrain_epochs: received 1 together with from_random_weights" in errors
