"""Targets: the folder of a run that is evaluated, resumed, or shown in a report."""

import random
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import train_optimized
from seqsetvae import report as reports
from seqsetvae.system.errors import InputError
from tests.fuzz import mutate
from tests.fuzz.given import Files, damage_checkpoint, damage_json


def run_folder(files: Files, rng: random.Random, folder: Path) -> None:
    """The files of a finished run, evaluated."""
    run = _copy(files.run, folder)
    _damage(run / rng.choice(("config.json", "calibration.json", "metrics.csv", "run_state.json")), rng)
    words = ["--mode", "evaluate", "--ckpt", str(run), "--split", "valid", "--baselines", "none"]
    words += ["--accelerator", "cpu"]
    _call([*words, "--data_dir", str(files.cohort)] if rng.random() < 0.5 else words)


def resume(files: Files, rng: random.Random, folder: Path) -> None:
    """A run that was killed, resumed; its checkpoints, or what config.json records, are damaged."""
    run = _copy(files.killed, folder)
    name = rng.choice(("last", "last", "last", "previous", "best", "config"))
    if name == "config":
        damage_json(run / "config.json", rng)
    else:
        file = run / "checkpoints" / f"{name}.ckpt"
        damage_checkpoint(file, file, rng, lambda content: [_part(content, rng)])
    with patch.object(reports, "report_finished_run"):  # the target `report` draws them
        _call(["--resume", str(run)])


def report(files: Files, rng: random.Random, folder: Path) -> None:
    """The files of a run that was evaluated, in a report."""
    run = _copy(files.evaluated, folder)
    names = ["evaluation.json", "predictions.csv", "metrics.csv", "summary.json", "run_state.json"]
    _damage(run / rng.choice([*names, "evaluation.json", "config.json", "train.log", "calibration.json"]), rng)
    _call(["--mode", "report", "--runs", str(run)])


def _copy(run: Path, folder: Path) -> Path:
    copy = folder / "run"
    return Path(shutil.copytree(run, copy, ignore=shutil.ignore_patterns("figures", "tensorboard", "report.html")))


def _damage(file: Path, rng: random.Random) -> None:
    if file.suffix == ".json":
        damage_json(file, rng)
    else:
        file.write_bytes(mutate.bytes_of(file.read_bytes(), rng))


def _part(content: dict[str, Any], rng: random.Random) -> str:
    parts = [name for name, value in content.items() if isinstance(value, dict | list) and value]
    return rng.choice([*parts, *(name for name in ("loops", "callbacks") if name in content)])


def _call(words: list[str]) -> None:
    status = train_optimized.main(words)
    if status == 2:
        raise InputError("printed by the command")
    if status == 1:
        raise InputError("printed by the command: numbers that are not finite, for example by a rate of 1e300")
    assert status == 0, f"status {status}"
