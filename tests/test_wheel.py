"""The wheel: its two commands work where only the wheel and its dependencies are, and it claims no common name."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_a_wheel_runs_the_demo(tmp_path):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", "outputs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "data.py" not in names
    assert {"seqsetvae/report/templates/page.html", "seqsetvae/py.typed"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    shutil.rmtree(source)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "empty")], check=True)
    bin_ = tmp_path / "empty" / "bin"
    # Its own dependencies and no others; the versions that the other tests run with.
    install = [bin_ / "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(install, check=True)
    commands = [[bin_ / "seqsetvae", "--mode", "demo", "--accelerator", "cpu"], [bin_ / "seqsetvae-data", "--help"]]
    for command in commands:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("outputs/demo-*/finetune-*/checkpoints/best.ckpt"))
