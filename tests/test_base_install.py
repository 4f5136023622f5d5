"""The base install: training and prediction work without the extras, and what needs one says how to install it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.command import argv

ROOT = Path(__file__).resolve().parents[1]


def _base_install() -> set[str]:
    """The packages that `pip install .` installs, with all that they require."""
    base = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    found: set[tuple[str, str]] = set()  # (package, extra)
    left = [Requirement(line) for line in base]
    while left:
        needed = left.pop()
        new = {(canonicalize_name(needed.name), extra) for extra in ("", *needed.extras)} - found
        found |= new
        for required in map(Requirement, _requires(needed.name) if new else []):
            if required.marker is None or any(required.marker.evaluate({"extra": extra}) for _, extra in new):
                left.append(required)
    return {package for package, _ in found}


def _requires(package: str) -> list[str]:
    """What an installed package requires."""
    try:
        return metadata.requires(package) or []
    except metadata.PackageNotFoundError:  # of a torch without the packages for CUDA that it names
        return []


@cache
def _other_modules() -> tuple[str, ...]:
    """What can be imported here and not after `pip install .`: extras, and what tests and linters need."""
    base = _base_install()
    owners = {name: set(map(canonicalize_name, of)) for name, of in metadata.packages_distributions().items()}
    return tuple(sorted({"jinja2"} | {name for name, of in owners.items() if not of & base}))  # torch brings jinja2


# Python imports this file when it starts: the packages OTHERS are then as if they were not installed.
HIDE = """
import sys
from importlib.machinery import PathFinder

class OnlyTheBaseInstall:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in OTHERS else PathFinder.find_spec(name, path, target)

    @staticmethod
    def find_distributions(context):
        return PathFinder.find_distributions(context) if context.name == "duckdb" else []  # it asks for its own version

sys.meta_path = [OnlyTheBaseInstall if finder is PathFinder else finder for finder in sys.meta_path]
"""
RUN = """
import json, sys
from pathlib import Path
import train_optimized
from seqsetvae.cohort import command
for words in json.loads(sys.argv[1]):
    print("##", *words[:2], flush=True)
    words = [str(next(Path("runs").glob("finetune-*"))) if word == "{run}" else word for word in words]
    main = train_optimized.main if words[0] == "--mode" else command.main
    print("status", main(words), flush=True)
print("## load, predict", flush=True)
from seqsetvae import load, predict
predict(load(next(Path("runs").glob("finetune-*"))), sys.argv[2])
"""


def _python(folder: Path, *words: str) -> str:
    """What Python prints in a folder that hides what the base install lacks."""
    (folder / "sitecustomize.py").write_text(f"OTHERS = {_other_modules()!r}\n{HIDE}")
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    command = [sys.executable, *words]
    done = subprocess.run(command, env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT, cwd=folder)
    return done.stdout


def test_only_the_base_install_can_be_imported(tmp_path):
    """Or the test below would show nothing."""
    base = ["torch", "pytorch_lightning", "torchmetrics", "numpy", "pyarrow", "duckdb", "scipy", "sklearn", "tqdm"]
    others = ["lightgbm", "jinja2", "matplotlib", "safetensors", "onnx", "pandas", "hypothesis"]
    tried = f"import importlib.util as u; print([name for name in {[*base, *others]!r} if u.find_spec(name)])"
    assert _python(tmp_path, "-c", tried) == f"{base}\n"


def test_commands_need_no_extra_or_say_which(pretrained, old_layout, compiled, tmp_path):
    usual = {"accelerator": "cpu", "data_dir": compiled.path, "output_root_dir": tmp_path / "runs"}
    short = {"max_epochs": 1, "batch_size": 16, **usual}
    applied = {"ckpt": "{run}", "split": "test", "accelerator": "cpu"}
    summaries = {"from_random_weights": True, "architecture": "variable_summaries", **usual, "max_epochs": 1}
    commands: list[tuple[list[str], int, str]] = [
        (["compile", str(old_layout), "cohort"], 0, "12 variables"),
        (["check", "cohort"], 0, ""),
        (["export", "cohort", "meds", "--to", "meds"], 0, ""),
        (argv(mode="pretrain", preset="small", **short), 0, ""),
        (argv(mode="finetune", pretrained_ckpt=pretrained, **short), 0, "No TensorBoard curves, only metrics.csv: "),
        (argv(mode="evaluate", output="evaluated", **applied), 0, "No boosted trees among the baselines: lightgbm is"),
        (argv(mode="predict", output="risks.csv", **applied), 0, "Wrote"),
        (argv(mode="report", runs="{run}"), 2, "error: a report needs jinja2, matplotlib, which are not installed. "),
        (argv(mode="finetune", **summaries), 2, "pip install lightgbm"),
        (argv(mode="crossvalidate", **summaries), 2, "pip install lightgbm"),
        (argv(mode="finetune", tree_models=0, **summaries), 0, "val_auc"),
        (argv(mode="export", ckpt="{run}", output="exported"), 2, "pip install safetensors"),
    ]
    said = _python(tmp_path, "-c", RUN, json.dumps([words for words, *_ in commands]), str(compiled.path))
    *parts, of_predict = re.split(r"^## .*\n", said, flags=re.MULTILINE)[1:]
    for part, (_, status, text) in zip(parts, commands, strict=True):
        assert (re.findall(r"^status (\d+)$", part, re.MULTILINE)[-1:], text in part) == ([str(status)], True), part
    assert "No report was written: a report needs jinja2, matplotlib" in parts[4]
    assert "InputError: predict returns a pandas table; install it with: pip install pandas" in of_predict
    content = json.loads((tmp_path / "evaluated" / "evaluation.json").read_text(encoding="utf-8"))
    assert list(content["baselines"]) == ["prevalence", "logistic regression"]
