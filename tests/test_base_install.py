"""The base install: training and prediction work without the extras, and what needs one says how to install it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from seqsetvae.cohort import Cohort

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("lightgbm", "jinja2", "matplotlib", "captum", "tensorboard", "safetensors", "onnx", "onnxruntime")
# Python imports this file when it starts: the packages are then as if they were not installed.
HIDE = f"""
import sys
from importlib.machinery import PathFinder

class WithoutExtras:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in {EXTRAS!r} else PathFinder.find_spec(name, path, target)

sys.meta_path = [WithoutExtras if finder is PathFinder else finder for finder in sys.meta_path]
"""
RUN = """
import json, sys
import train_optimized
for words in json.loads(sys.argv[1]):
    print("##", words[1], flush=True)
    print("status", train_optimized.main(words), flush=True)
"""


def _run(folder: Path, *commands: dict[str, object]) -> list[tuple[int, str]]:
    """(exit status, everything printed) of commands in a process that has no extras."""
    (folder / "sitecustomize.py").write_text(HIDE)
    words = [[word for name, value in each.items() for word in (f"--{name}", str(value))] for each in commands]
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(words)],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    parts = re.split(r"^## \w+\n", done.stdout, flags=re.MULTILINE)[1:]
    return [(int(re.findall(r"^status (\d+)$", part, re.MULTILINE)[-1]), part) for part in parts]


def test_training_and_prediction_need_no_extra(pretrained: Path, compiled: Cohort, tmp_path: Path) -> None:
    usual = {"accelerator": "cpu", "data_dir": compiled.path, "output_root_dir": tmp_path / "runs"}
    train = {"mode": "finetune", "pretrained_ckpt": pretrained, "max_epochs": 1, "batch_size": 16, **usual}
    ((status, said),) = _run(tmp_path, train)
    assert status == 0, said
    assert "No TensorBoard curves, only metrics.csv: tensorboard is not installed (pip install tensorboard)" in said
    assert "No report was written: a report needs jinja2, matplotlib" in said
    assert "pip install jinja2 matplotlib" in said
    (run,) = (tmp_path / "runs").glob("finetune-*")
    assert (run / "metrics.csv").is_file()
    predict = {"mode": "predict", "ckpt": run, "split": "test"}
    from_random = {"mode": "finetune", "from_random_weights": True, **usual}
    summaries = {**from_random, "architecture": "variable_summaries", "max_epochs": 1}
    done = _run(
        tmp_path,
        {"mode": "evaluate", "ckpt": run, "split": "test", "accelerator": "cpu", "output": tmp_path / "evaluated"},
        {**predict, "output": tmp_path / "risks.csv", "accelerator": "cpu"},
        {**predict, "output": tmp_path / "why.csv", "accelerator": "cpu", "explain": 1},
        {"mode": "report", "runs": run},
        summaries,
        {**summaries, "mode": "crossvalidate"},
        {**summaries, "distillation": 0, "tree_models": 0},
        {"mode": "export", "ckpt": run, "output": tmp_path / "exported"},
    )
    expected = [
        (0, "No boosted trees among the baselines: lightgbm is not installed (pip install lightgbm)."),
        (0, "Wrote"),
        (2, "error: explain: needs the package captum; install it with: pip install captum"),
        (2, "error: a report needs jinja2, matplotlib, which are not installed. Install with: pip install jinja2"),
        (2, "pip install lightgbm"),
        (2, "pip install lightgbm"),
        (0, "val_auc"),
        (2, "pip install safetensors"),
    ]
    for (status, said), (expected_status, text) in zip(done, expected, strict=True):
        assert (status, text in said) == (expected_status, True), said
    content = json.loads((tmp_path / "evaluated" / "evaluation.json").read_text(encoding="utf-8"))
    assert list(content["baselines"]) == ["prevalence", "logistic regression"]


def test_requirements_txt_is_the_base_install_with_all_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = dict(project["optional-dependencies"])
    (named,) = extras.pop("all")
    assert set(re.findall(r"\w+", named.partition("[")[2])) == set(extras)
    listed = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    expected = [*project["dependencies"], *(package for extra in extras.values() for package in extra)]
    assert sorted(line for line in listed if not line.startswith("#")) == sorted(expected)


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_and_explained(file: str) -> None:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    names = [match[0] for line in lines if (match := re.match(r"[A-Za-z][\w-]*", line))]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    assert [name for name in names if f"\n{name}==" not in pins] == []
    explained = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert [name for name in names if name not in explained] == []
