"""--loggers: Weights & Biases and MLflow get settings and metrics, no paths and no stays; a missing one is named."""

import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import pytest

from model_optimized import SeqSetVAEFineTuner
from seqsetvae.settings import groups
from seqsetvae.training.trackers import Guarded, Wandb
from tests.command import finetune, refused, rows_of, run_of, succeeded
from tests.training.resuming import killed_at, resume

SHORT = {"max_epochs": 1, "unfreeze_after": "none"}


def test_mlflow_gets_settings_and_the_metrics_of_each_validation(pretrained, compiled, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow-skinny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    succeeded(finetune(pretrained, compiled.path, tmp_path / "runs", loggers="mlflow", **SHORT))
    client = mlflow.MlflowClient()
    (experiment,) = (each for each in client.search_experiments() if each.name == "seqsetvae")
    (run,) = client.search_runs([experiment.experiment_id])
    folder = run_of(tmp_path / "runs")
    assert (run.info.run_name, run.info.status) == (folder.name, "FINISHED")
    (row,) = rows_of(folder)
    assert run.data.metrics["val_auc"] == float(row["val_auc"])
    assert (run.data.params["batch_size"], run.data.params["tuning"]) == ("6", "two_stage")
    sent = [*run.data.params.values(), *run.data.tags.values()]
    assert not [text for text in sent if str(tmp_path) in text or str(pretrained) in text]
    assert run.data.tags.keys() == {"mlflow.runName"}  # no user, no script


def test_wandb_stays_offline_and_its_file_names_no_path_of_the_machine(pretrained, compiled, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    succeeded(finetune(pretrained, compiled.path, tmp_path / "runs", loggers="wandb", **SHORT))
    folder = run_of(tmp_path / "runs")
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    until = time.monotonic() + 20  # a process of wandb writes the file, a moment after the run has ended
    while b"val_auc" not in file.read_bytes() and time.monotonic() < until:
        time.sleep(0.05)
    content = file.read_bytes()
    assert b"val_auc" in content
    assert b"cls_head_lr" in content
    for path in (tmp_path, pretrained.parent, compiled.path, Path(__file__).parents[2], Path.home() / "x"):
        assert str(path).encode() not in content
    assert not list(folder.glob("wandb/*/files/*"))  # no command line, output, requirements or code


class _Unavailable(BaseHTTPRequestHandler):
    """A server of MLflow that answers 503."""

    def do_GET(self) -> None:
        self.send_error(503)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_server_that_is_down_costs_one_warning(pretrained, compiled, tmp_path, monkeypatch):
    """Also of a run that goes on."""
    pytest.importorskip("mlflow", reason="needs mlflow-skinny")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with HTTPServer(("127.0.0.1", 0), _Unavailable) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        with killed_at(SeqSetVAEFineTuner, "training_step", 3):
            finetune(pretrained, compiled.path, tmp_path, loggers="mlflow", **SHORT)
        said = resume(run_of(tmp_path))
        server.shutdown()
    assert said.count("⚠️  mlflow fails (") == 1
    assert "the run continues without it" in said
    assert len(rows_of(run_of(tmp_path))) == 1


def test_a_tracker_gets_nothing_more_after_its_first_failure(capsys):
    class Failing:
        calls = 0

        def add(self, *_: object) -> None:
            self.calls += 1
            raise OSError("no\nroute")

        def close(self) -> None:
            raise AssertionError("closed")

    failing = Failing()
    tracker = Guarded("wandb", lambda: failing)
    for step in range(3):
        tracker.add({}, step)
    tracker.close()
    assert failing.calls == 1
    assert capsys.readouterr().out == "⚠️  wandb fails (no route); the run continues without it\n"


def test_wandb_without_a_key_is_one_warning(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb", reason="needs wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))  # where a key may be
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    tracker = Guarded("wandb", lambda: Wandb(tmp_path, {}))
    tracker.add({"val_auc": 0.5}, 1)
    tracker.close()
    said = capsys.readouterr().out
    assert said.count("⚠️  wandb fails (") == 1


def test_the_trackers_of_a_run_may_change(pretrained, compiled, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with killed_at(SeqSetVAEFineTuner, "training_step", 3):
        finetune(pretrained, compiled.path, tmp_path, loggers="wandb", **SHORT)
    resume(run_of(tmp_path), "--loggers", "none", "--override", "loggers")


def test_a_missing_package_is_one_error_before_anything_is_written(pretrained, compiled, tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "find_spec", lambda name: None if name == "wandb" else find_spec(name))
    errors = refused(finetune(pretrained, compiled.path, tmp_path, loggers="wandb"))
    assert "loggers: wandb is not installed: pip install wandb" in errors
    assert not list(tmp_path.iterdir())


def test_another_tracker_is_refused(pretrained, compiled, tmp_path):
    errors = refused(finetune(pretrained, compiled.path, tmp_path, loggers="neptune"))
    assert "loggers: received 'neptune'; allowed: one of wandb, mlflow or several, or None" in errors
