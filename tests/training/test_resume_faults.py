"""A run goes on only from a checkpoint of its own that agrees with itself; each other one is one clear error."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seqsetvae.training import callbacks
from tests.command import call, finetune, run_of
from tests.training.resuming import killed_at, refusal

FLAGS = {"batch_size": 8, "max_epochs": 3, "unfreeze_after": 1}


def _killed(pretrained: Path, data: Path, root: Path, **flags: object) -> Path:
    """A run that was killed in stage 2, after an epoch of it."""
    with killed_at(callbacks.MetricsTable, "add", 3):
        finetune(pretrained, data, root, **{**FLAGS, **flags})
    return run_of(root)


@pytest.fixture(scope="module")
def killed_once(pretrained: Path, old_layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _killed(pretrained, old_layout, tmp_path_factory.mktemp("killed"))


@pytest.fixture
def killed(killed_once: Path, tmp_path: Path) -> Path:
    """A copy of it, with one checkpoint alone to resume from."""
    run = Path(shutil.copytree(killed_once, tmp_path / killed_once.name))
    (run / "checkpoints" / "previous.ckpt").unlink()
    return run


def test_a_checkpoint_of_another_run_is_refused(killed, pretrained, old_layout, tmp_path):
    other = _killed(pretrained, old_layout, tmp_path / "other", seed=4, head_hidden=16)
    shutil.copyfile(other / "checkpoints" / "last.ckpt", killed / "checkpoints" / "last.ckpt")
    errors = refusal(killed)
    assert errors.count("\n") == 1
    assert "last.ckpt: is a checkpoint of another run: it has another head_hidden, seed than" in errors


def _loop(content: dict[str, Any]) -> dict[str, Any]:
    return content["loops"]["fit_loop"]


def _callback(content: dict[str, Any], name: str) -> dict[str, Any]:
    """The state of a callback, whose key begins with its name."""
    return next(state for key, state in content["callbacks"].items() if key.startswith(name))


def _of_an_earlier_version(content: dict[str, Any]) -> None:
    """Without what says of which run it is, and with a head of another size."""
    del _callback(content, "LastCheckpoint")["identity"]
    content["state_dict"]["head.net.0.weight"] = torch.ones(3, 3)


def _set(where: Callable[[dict[str, Any]], Any], key: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: where(content).__setitem__(key, value)


def _rows(content: dict[str, Any]) -> Any:
    return _callback(content, "LastCheckpoint")["run"]


def _moment(content: dict[str, Any]) -> Any:
    return content["optimizer_states"][0]["state"][0]


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "weights of another model": (_of_an_earlier_version, "cannot be restored (RuntimeError: Error(s) in loading"),
    "weights that are NaN": (
        _set(lambda content: content["state_dict"], "head.net.0.bias", torch.full((128,), torch.nan)),
        "NaN or infinite values in 1 weights: head.net.0.bias",
    ),
    "more epochs than rows": (
        _set(lambda content: _loop(content)["epoch_progress"]["total"], "processed", 7),
        "damaged, it counts 7 epochs of stage 2 and has 1 rows of it",
    ),
    "a count below 0": (
        _set(lambda content: _loop(content)["epoch_loop.batch_progress"]["current"], "ready", -(10**9)),
        "damaged, a count is -1000000000",
    ),
    "other steps of the optimizer": (lambda content: content.update(global_step=10**6), "optimizer steps, and 1000000"),
    "a row that is missing": (
        lambda content: _rows(content).update(rows=_rows(content)["rows"][1:]),
        "its rows are not those of all epochs",
    ),
    "a metric that is no number": (
        lambda content: _rows(content)["rows"][0]["metrics"].update(val_auc="high"),
        "damaged, rows[0]/metrics/val_auc is 'high', which has the wrong type",
    ),
    "a batch that is no number": (
        lambda content: _callback(content, "LastCheckpoint").update(batches=None),
        "damaged, 'batches' is missing",
    ),
    "patience that is no number": (
        lambda content: _callback(content, "Stopping").update(wait_count="x"),
        "cannot be restored (ValueError: Stopping, wait_count is 'x')",
    ),
    "moments of another shape": (
        _set(_moment, "exp_avg", torch.ones(2)),
        "cannot be restored (ValueError: exp_avg of the optimizer is",
    ),
    "a rate that is no number": (
        lambda content: content["optimizer_states"][0]["param_groups"][0].update(lr=[1]),
        "cannot be restored (ValueError: the optimizer, lr is [1])",
    ),
    "random numbers that are none": (
        lambda content: _callback(content, "LastCheckpoint")["ranks"][0].update(random_numbers={"torch": 3}),
        "cannot be restored (TypeError",
    ),
    "no loops": (lambda content: content.pop("loops"), "last.ckpt cannot be read, so the run cannot be resumed"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_does_not_agree_with_itself_is_one_error(killed, fault):
    damage, said = FAULTS[fault]
    last = killed / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    damage(content)
    torch.save(content, last)
    status, printed, errors = call(["--resume", str(killed)])
    assert status == 2
    assert said in printed + errors, printed[-300:] + errors
    assert errors.count("\n") == 1
    assert "Traceback" not in printed + errors


def test_a_config_that_does_not_say_which_data_the_run_is_of_is_one_error(killed):
    config = killed / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    for damaged in ({}, {"cohort": ["content"]}, {"cohort": {}}):
        rest = {name: value for name, value in content.items() if name != "cohort"}
        config.write_text(json.dumps(rest | damaged), encoding="utf-8")
        errors = refusal(killed)
        assert errors.count("\n") == 1
        assert "config.json" in errors


def test_a_best_checkpoint_with_other_weights_is_one_error(pretrained, old_layout, tmp_path):
    """Killed at the beginning of stage 2, which begins with the weights of best.ckpt."""
    with killed_at(callbacks.MetricsTable, "add", 2):
        finetune(pretrained, old_layout, tmp_path, **FLAGS)
    run = run_of(tmp_path)
    best = run / "checkpoints" / "best.ckpt"
    content = torch.load(best, weights_only=False)
    content["state_dict"]["head.x"] = torch.zeros(1)
    torch.save(content, best)
    assert "best.ckpt: its weights are not those of this run" in refusal(run)
