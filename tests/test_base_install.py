"""The base install: training and prediction work without the extras, and what needs one says how to install it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from seqsetvae.cohort import Cohort
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


def _other_modules() -> tuple[str, ...]:
    """What can be imported here and not after `pip install .`: extras, and what tests and linters need."""
    base = _base_install()
    owners = {name: set(map(canonicalize_name, of)) for name, of in metadata.packages_distributions().items()}
    return tuple(sorted({"jinja2"} | {name for name, of in owners.items() if not of & base}))  # torch brings jinja2


# Python imports this file when it starts: the packages are then as if they were not installed.
HIDE = f"""
import sys
from importlib.machinery import PathFinder

class OnlyTheBaseInstall:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in {_other_modules()!r} else PathFinder.find_spec(name, path, target)

    @staticmethod
    def find_distributions(context):
        return PathFinder.find_distributions(context) if context.name == "duckdb" else []  # it asks for its own version

sys.meta_path = [OnlyTheBaseInstall if finder is PathFinder else finder for finder in sys.meta_path]
"""
RUN = """
import json, sys
import train_optimized
from seqsetvae.cohort import command
for words in json.loads(sys.argv[1]):
    print("##", *words[:2], flush=True)
    main = train_optimized.main if words[0] == "--mode" else command.main
    print("status", main(words), flush=True)
"""


def _run(folder: Path, *commands: dict[str, object] | list[str]) -> list[tuple[int, str]]:
    """(exit status, everything printed) of commands of both programs in a process that has the base install alone."""
    (folder / "sitecustomize.py").write_text(HIDE)
    words = [each if isinstance(each, list) else argv(**each) for each in commands]
    done = _python(folder, "-c", RUN, json.dumps(words))
    assert done.returncode == 0, done.stdout
    parts = re.split(r"^## .*\n", done.stdout, flags=re.MULTILINE)[1:]
    return [(int(re.findall(r"^status (\d+)$", part, re.MULTILINE)[-1]), part) for part in parts]


def _python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Python in a folder that hides what the base install lacks; all that it prints is in stdout."""
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    return subprocess.run(
        [sys.executable, *words],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder,
    )  # fmt: skip


def test_only_the_base_install_can_be_imported(tmp_path: Path) -> None:
    """Or the tests below would show nothing."""
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    tried = "import importlib.util as u; print([name for name in {!r} if u.find_spec(name)])"
    base = ["torch", "pytorch_lightning", "torchmetrics", "numpy", "pyarrow", "duckdb", "scipy", "sklearn", "tqdm"]
    others = ["lightgbm", "jinja2", "matplotlib", "captum", "safetensors", "onnx", "pandas", "hypothesis"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", tried.format([*base, *others])]
    said = subprocess.run(command, env=environment, text=True, capture_output=True)
    assert (said.stdout, said.stderr) == (f"{base}\n", "")


def test_data_commands_and_pretraining_need_no_extra(old_layout: Path, tmp_path: Path) -> None:
    cohort, runs = tmp_path / "cohort", tmp_path / "runs"
    usual = {"data_dir": cohort, "accelerator": "cpu", "output_root_dir": runs}
    sizes = {"preset": "small", "max_epochs": 1, "batch_size": 16}
    done = _run(
        tmp_path,
        ["compile", str(old_layout), str(cohort)],
        ["check", str(cohort)],
        ["export", str(cohort), str(tmp_path / "meds"), "--to", "meds"],
        {"mode": "pretrain", **usual, **sizes},
        {"mode": "finetune", "from_random_weights": True, "unfreeze_after": 0, **usual, **sizes},
    )
    assert [status for status, _ in done] == [0] * 5, done


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
        {**summaries, "tree_models": 0},
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
    tried = f"from seqsetvae import load, predict; predict(load({str(run)!r}), {str(compiled.path)!r})"
    said = _python(tmp_path, "-c", tried).stdout
    assert "InputError: predict returns a pandas table; install it with: pip install pandas" in said
    content = json.loads((tmp_path / "evaluated" / "evaluation.json").read_text(encoding="utf-8"))
    assert list(content["baselines"]) == ["prevalence", "logistic regression"]
