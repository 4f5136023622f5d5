"""The command line in tests: flags are keyword arguments."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import pytest

import finetune_config_optimized as config
import train_optimized
from seqsetvae import report
from seqsetvae.report import page

TIMES = {"stays_per_second", "waiting", "seconds"}
_report_finished_run, _write_files = report.report_finished_run, page.write_files


@contextlib.contextmanager
def placeholder_reports() -> Iterator[None]:
    """Commands end with a placeholder, since drawing a report takes as long as a small training.

    A report that is asked for has no PNG files, which are half of the work.
    """

    def write(run_folder: Path) -> None:
        (run_folder / "report.html").write_text("A placeholder for the report.", encoding="utf-8")

    def svg_alone(_: object, svg: str, folder: Path, name: str) -> None:
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")

    with patch.object(report, "report_finished_run", write), patch.object(page, "write_files", svg_alone):
        yield


@contextlib.contextmanager
def real_reports(drawn: bool = True) -> Iterator[None]:
    """Commands end with their report, as for users; without `drawn` its pictures, most of the work, are empty."""
    finished = patch.object(report, "report_finished_run", _report_finished_run)
    pictures = ("write_files", _write_files) if drawn else ("as_svg", lambda *_: "<svg></svg>")
    with finished, patch.object(page, *pictures):
        yield


def argv(**flags: object) -> list[str]:
    """The words of a command line.

    >>> argv(mode="finetune", batch_size=8)
    ['--mode', 'finetune', '--batch_size', '8']
    """
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def call(words: list[str]) -> tuple[int, str, str]:
    """(status, stdout, stderr) of train_optimized.py."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = train_optimized.main(words)
    return status, out.getvalue(), err.getvalue()


def command(mode: str, **flags: object) -> tuple[int, str, str]:
    """(status, stdout, stderr) of a mode, on the CPU; evaluate without baselines, which take seconds."""
    usual = {"accelerator": "cpu"} | ({"baselines": "none"} if mode == "evaluate" else {})
    return call(argv(mode=mode, **{**usual, **flags}))


def succeeded(called: tuple[int, str, str]) -> str:
    """What was printed by a command that must end with status 0."""
    status, said, errors = called
    assert status == 0, errors
    return said


def refused(called: tuple[int, str, str]) -> str:
    """The error of a command that must end with status 2."""
    status, _, errors = called
    assert status == 2, errors
    return errors


def finetune(pretrained: Path, data_dir: Path, root: Path, **flags: object) -> tuple[int, str, str]:
    """A small fine-tuning run; `flags` replace those written here."""
    usual = {
        "pretrained_ckpt": pretrained,
        "data_dir": data_dir,
        "output_root_dir": root,
        "batch_size": 6,
        "max_epochs": 3,
        "unfreeze_after": 2,
        "cls_head_lr": 3e-3,
        "lr": 1e-3,
        "warmup_steps": 5,
        "seed": 3,
    }
    return command("finetune", **{**usual, **flags})


def run_of(root: Path, mode: str = "finetune") -> Path:
    """The only run folder of a mode."""
    (run,) = root.glob(f"{mode}-*")
    return run


def rows_of(run: Path) -> list[dict[str, str]]:
    """metrics.csv without the columns that differ from run to run."""
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return [{name: cell for name, cell in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def change_config(monkeypatch: pytest.MonkeyPatch, **changes: object) -> ModuleType:
    """The command sees a config file in which the user has changed or added these lines."""
    module = ModuleType("finetune_config_optimized")
    vars(module).update({name: value for name, value in vars(config).items() if not name.startswith("_")} | changes)
    monkeypatch.setattr(train_optimized, "load_config", lambda _: module)
    return module
