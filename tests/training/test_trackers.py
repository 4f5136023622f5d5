"""--loggers: Weights & Biases and MLflow get settings and metrics, no paths and no stays; a missing one is named."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from seqsetvae.cohort import Cohort
from seqsetvae.settings import loggers
from tests.command import finetune, rows_of, run_of

SHORT = {"max_epochs": 1, "unfreeze_after": "none"}


def test_mlflow_gets_settings_and_the_metrics_of_each_validation(
    pretrained: Path, compiled: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow-skinny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    status, _, errors = finetune(pretrained, compiled.path, tmp_path / "runs", loggers="mlflow", **SHORT)
    assert status == 0, errors
    client = mlflow.MlflowClient()
    (experiment,) = (each for each in client.search_experiments() if each.name == "seqsetvae")
    (run,) = client.search_runs([experiment.experiment_id])
    folder = run_of(tmp_path / "runs")
    assert (run.info.run_name, run.info.status) == (folder.name, "FINISHED")
    (row,) = rows_of(folder)
    assert run.data.metrics["val_auc"] == float(row["val_auc"])
    assert (run.data.params["batch_size"], run.data.params["tuning"]) == ("4", "two_stage")
    sent = [*run.data.params.values(), *run.data.tags.values()]
    assert not [text for text in sent if str(tmp_path) in text or str(pretrained) in text]
    assert run.data.tags.keys() == {"mlflow.runName"}  # no user, no script


def test_wandb_stays_offline_and_its_file_names_no_path_of_the_machine(
    pretrained: Path, compiled: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    status, _, errors = finetune(pretrained, compiled.path, tmp_path / "runs", loggers="wandb", **SHORT)
    assert status == 0, errors
    folder = run_of(tmp_path / "runs")
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert b"val_auc" in content
    assert b"cls_head_lr" in content
    for path in (tmp_path, pretrained.parent, compiled.path, Path(__file__).parents[2], Path.home() / "x"):
        assert str(path).encode() not in content
    assert not list(folder.glob("wandb/*/files/*"))  # no command line, output, requirements or code


def test_a_missing_package_is_one_error_before_anything_is_written(
    pretrained: Path, compiled: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None if name == "wandb" else find_spec(name))
    status, _, errors = finetune(pretrained, compiled.path, tmp_path, loggers="wandb")
    assert status == 2
    assert "loggers: wandb is not installed: pip install wandb" in errors
    assert not list(tmp_path.iterdir())


def test_another_tracker_is_refused(pretrained: Path, compiled: Cohort, tmp_path: Path) -> None:
    status, _, errors = finetune(pretrained, compiled.path, tmp_path, loggers="neptune")
    assert status == 2
    assert "loggers: received 'neptune'; allowed: one of wandb, mlflow or several, or None" in errors
