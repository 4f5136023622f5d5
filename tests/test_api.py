"""The package from Python: the example of docs/python.md runs, and its numbers are those of --mode predict."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.csv
import pytest

import seqsetvae
from seqsetvae import load, predict
from seqsetvae.cohort import Cohort
from seqsetvae.errors import InputError
from tests.command import command

DOC = Path(__file__).resolve().parents[1] / "docs" / "python.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_first_example_runs(
    finished: tuple[Path, str], compiled: Cohort, capsys: pytest.CaptureFixture[str]
) -> None:
    code = EXAMPLES[0].replace("outputs/finetune-20261124-120000", str(finished[0])).replace("p12", str(compiled.path))
    names: dict[str, object] = {}
    exec(compile(code, str(DOC), "exec"), names)
    assert len(names["table"]) == compiled.split("valid").n_stays  # type: ignore[arg-type]
    assert "calibrated_probability" in capsys.readouterr().out


def test_the_second_example_runs() -> None:
    rng = np.random.default_rng(0)
    label = (rng.random(300) < 0.3).astype(int)
    names = {"label": label, "logit": rng.normal(size=300) + label, "other": rng.normal(size=300)}
    exec(compile(EXAMPLES[1], str(DOC), "exec"), names)


def test_the_numbers_are_those_of_the_command(finished: tuple[Path, str], compiled: Cohort, tmp_path: Path) -> None:
    file = tmp_path / "risks.csv"
    flags = {"ckpt": finished[0], "data_dir": compiled.path, "split": "test", "output": file, "batch_size": 8}
    assert command("predict", **flags)[0] in (0, 3)
    table = predict(load(finished[0] / "checkpoints" / "best.ckpt"), compiled.path, split="test")
    written = pyarrow.csv.read_csv(file)
    assert table["stay_id"].to_pylist() == written["stay_id"].to_pylist()
    assert table["logit"].to_pylist() == written["logit"].to_pylist()


def test_data_that_differ_from_the_training_data_are_a_warning(
    finished: tuple[Path, str], old_layout: Path, tmp_path: Path
) -> None:
    stays = tmp_path / "new" / "patient_ehr" / "test"
    shutil.copytree(old_layout / "test", stays)
    for file in stays.iterdir():
        pd.read_parquet(file).assign(minute=lambda rows: rows["minute"] / 60).to_parquet(file)
    with pytest.warns(UserWarning, match="is `minute` in hours"):
        table = predict(load(finished[0]), tmp_path / "new", cache_dir=tmp_path / "cache")
    assert table["logit"].null_count == 0


def test_bad_input_is_one_clear_error(finished: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"checkpoint: received '.*missing', which does not exist"):
        load(tmp_path / "missing")
    with pytest.raises(InputError, match="no such folder"):
        predict(load(finished[0]), tmp_path / "missing")
    with pytest.raises(AttributeError, match="has no attribute 'train'"):
        seqsetvae.train  # noqa: B018
