"""--mode crossvalidate with several ways of tuning and seeds: a file a training, one table, going on after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from seqsetvae.cohort import Cohort
from seqsetvae.cohort.folds import folds
from seqsetvae.evaluation.crossvalidation import read_columns
from seqsetvae.runs import finetune
from seqsetvae.tasks import fitting
from tests.command import argv, call, succeeded

ROOT = Path(__file__).resolve().parents[2]


def _words(pretrained: Path, compiled: Cohort, root: Path, *tunings: str, **flags: object) -> list[str]:
    """A small sweep without baselines."""
    usual = {"pretrained_ckpt": pretrained, "data_dir": compiled.path, "output_root_dir": root, "output": root / "cv"}
    usual |= {"folds": 2, "max_epochs": 2, "batch_size": 8, "accelerator": "cpu", "baselines": "none"}
    return [*argv(mode="crossvalidate", **{**usual, **flags}), *(["--tunings", *tunings] if tunings else [])]


def _result(root: Path) -> dict[str, Any]:
    return json.loads((root / "cv" / "crossvalidation.json").read_text(encoding="utf-8"))


def _files(root: Path) -> set[str]:
    return {file.name for file in (root / "cv").glob("*.csv")}


def test_each_training_has_a_file_and_the_table_compares_the_ways(pretrained, compiled, tmp_path, monkeypatch):
    pytest.importorskip("lightgbm", reason="the baselines need lightgbm")
    monkeypatch.setattr(fitting, "MOST_ROUNDS", 20)
    said = succeeded(
        call(_words(pretrained, compiled, tmp_path, "probe", "lora", folds=1, seeds=2, baselines="all", seed=5))
    )
    places = ("partition0-fold0",)
    trainings = {f"{place}-{way}-seed{seed}" for place in places for way in ("probe", "lora") for seed in (5, 6)}
    assert _files(tmp_path) == {f"{name}.csv" for name in trainings} | {f"{place}-baselines.csv" for place in places}
    result = _result(tmp_path)
    assert list(result["models"]) == ["probe", "lora", "boosted trees", "logistic regression"]
    assert result["first"] == "probe"
    by_seed = [
        np.mean([_auroc(tmp_path, f"{place}-lora-seed{seed}", "seqsetvae") for place in places]) for seed in (5, 6)
    ]
    assert result["models"]["lora"]["auroc"]["by_seed"] == pytest.approx(by_seed)
    assert result["models"]["lora"]["difference_to_first"].keys() == {"auroc", "auprc"}
    trees = [_auroc(tmp_path, f"{place}-baselines", "boosted trees") for place in places]
    assert result["models"]["boosted trees"]["auroc"]["by_fold"] == pytest.approx(trees)
    assert "Difference to probe, AUROC and AUPRC" in said
    for name in trainings:  # which run a file is of, and what trained in it
        about = json.loads((tmp_path / "cv" / f"{name}.json").read_text(encoding="utf-8"))
        assert (tmp_path / "cv" / about["run"] / "checkpoints" / "best.ckpt").is_file()
        recorded = json.loads((tmp_path / "cv" / about["run"] / "config.json").read_text(encoding="utf-8"))["settings"]
        assert name.endswith(f"-{recorded['tuning']}-seed{recorded['seed']}")


def _auroc(root: Path, name: str, model: str) -> float:
    columns = read_columns(root / "cv" / f"{name}.csv")
    return float(roc_auc_score(columns["label"], columns[model]))


def test_one_fold_is_the_split_of_the_data(pretrained, compiled, tmp_path):
    said = succeeded(call(_words(pretrained, compiled, tmp_path, folds=1, seeds=2, max_epochs=1)))
    columns = read_columns(tmp_path / "cv" / "partition0-fold0-two_stage-seed42.csv")
    assert set(columns["stay_id"].tolist()) == set(compiled.split("valid").stay_id.tolist())
    entry = _result(tmp_path)["models"]["two_stage"]["auroc"]
    assert len(entry["by_seed"]) == 2
    assert f"{entry['value']:.4f} ({entry['sd_over_seeds']:.4f})" in said
    (fold,) = folds(compiled, 1, seed=0, train_fraction=0.5)
    assert set(fold.split("train").stay_id) < set(compiled.split("train").stay_id)
    assert fold.split("train").n_stays == compiled.split("train").n_stays // 2


def test_an_interrupted_sweep_goes_on_with_the_trainings_that_are_missing(pretrained, compiled, tmp_path, monkeypatch):
    """The run folder of the interrupted training is not taken for a finished one."""
    words = _words(pretrained, compiled, tmp_path / "interrupted", "probe", "full", folds=1, max_epochs=1)
    train, trained = finetune.train, []

    def interrupted(settings: Any, *arguments: Any, **options: Any) -> Any:
        summary = train(settings, *arguments, **options)  # the run is complete, but its predictions are not there
        trained.append(settings.tuning.tuning)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return summary

    monkeypatch.setattr(finetune, "train", interrupted)
    assert call(words)[0] == 130
    assert len(_files(tmp_path / "interrupted")) == 1
    assert call(words)[0] == 0
    assert trained.count("probe") == 1  # its predictions were there
    assert call(_words(pretrained, compiled, tmp_path / "whole", "probe", "full", folds=1, max_epochs=1))[0] == 0
    assert _result(tmp_path / "interrupted") == _result(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_sweep_goes_on_with_the_trainings_that_are_missing(pretrained, compiled, tmp_path):
    words = _words(pretrained, compiled, tmp_path / "killed", "probe", "full", folds=1)
    process = subprocess.Popen(
        [sys.executable, "train_optimized.py", *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while len(list((tmp_path / "killed" / "cv" / "runs").glob("finetune-*"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert _files(tmp_path / "killed") == {"partition0-fold0-probe-seed42.csv"}
    assert call(words)[0] == 0
    assert call(_words(pretrained, compiled, tmp_path / "whole", "probe", "full", folds=1))[0] == 0
    assert _result(tmp_path / "killed") == _result(tmp_path / "whole")
