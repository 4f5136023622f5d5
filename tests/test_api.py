"""The package from Python: the example of docs/python.md runs, and its numbers are those of --mode predict."""

import ast
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pytest

import seqsetvae
from seqsetvae import compile_cohort, evaluate, finetune, load, predict
from seqsetvae.cohort import open_cohort
from seqsetvae.cohort.command import main as data_command
from seqsetvae.system.errors import InputError
from tests.command import command, rows_of, succeeded

DOC = Path(__file__).resolve().parents[1] / "docs" / "python.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), flags=re.DOTALL)


def as_pandas(columns: dict[str, list[object]]) -> pd.DataFrame:
    return pd.DataFrame(columns)


def as_arrow(columns: dict[str, list[object]]) -> pa.Table:
    return pa.table(columns)


class AsPolars:
    """A table as polars hands it over, in its column types."""

    def __init__(self, columns: dict[str, list[object]]) -> None:
        table = pa.table(columns)
        texts = [name for name, kind in zip(table.column_names, table.schema.types, strict=True) if kind == pa.string()]
        for name in texts:
            view = table[name].cast(pa.string_view()).combine_chunks()
            encoded = pa.DictionaryArray.from_arrays(pa.array(range(len(view)), pa.uint32()), view)
            at = table.column_names.index(name)
            table = table.set_column(at, name, encoded).append_column(f"{name} as text", view)
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("frame", [as_pandas, as_arrow, AsPolars])
def test_the_first_example_goes_from_data_frames_to_risks(finished, compiled, tmp_path, frame):
    code = EXAMPLES[0].replace("outputs/finetune-20261124-120000", str(finished[0]))
    code = code.replace("p12", str(compiled.path)).replace("new_stays", str(tmp_path / "new_stays"))
    for name, ours in zip(("HR", "Lactate", "Age"), compiled.vocabulary, strict=False):
        code = code.replace(f'"{name}"', f'"{ours}"')
    names: dict[str, object] = {"frame": frame}
    with pytest.warns(UserWarning, match="of the training events"):
        exec(compile(code.replace("pd.DataFrame(", "frame("), str(DOC), "exec"), names)
    risks = names["risks"]
    assert isinstance(risks, pd.DataFrame)
    assert risks["stay_id"].tolist() == [7, 9]
    assert risks["probability"].between(0, 1).all()


def test_the_example_has_ten_lines_at_most():
    """Statements; their line breaks are those of the formatter."""
    assert len(ast.parse(EXAMPLES[0]).body) <= 10


def test_a_table_in_memory_gives_the_cohort_of_its_file(tmp_path, capsys):
    text = "stay,minute,item,result\n" + "".join(
        f"{stay},{10 * k},hr,{70 + k}\n" for stay in range(9) for k in range(3)
    )
    (tmp_path / "e.csv").write_text(text)
    flags = {"id_column": "stay", "time_column": "minute", "variable_column": "item", "value_column": "result"}
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    assert data_command(["table", str(tmp_path / "e.csv"), str(tmp_path / "file"), *words]) == 0
    frame = pd.read_csv(tmp_path / "e.csv")
    for name, table in (("pandas", frame), ("arrow", pa.Table.from_pandas(frame))):
        cohort = compile_cohort(tmp_path / name, table, **flags)
        assert cohort.content_hash == open_cohort(tmp_path / "file").content_hash
        assert cohort.manifest["source"] == "a table in memory"
    missing = r"^events: has no column id, time, variable, value\. Its columns are: stay, minute, item"
    with pytest.raises(InputError, match=missing):
        compile_cohort(tmp_path / "other", frame)
    with pytest.raises(InputError, match="until_hour: invalid float value: 'x'"):
        compile_cohort(tmp_path / "other", frame, until_hour="x")
    assert not (tmp_path / "other").exists()


def test_a_fault_in_a_table_in_memory_names_the_table_and_its_row(tmp_path):
    """Not the files that it was written to, neither in the error nor in the files of the cohort."""
    events = {"id": [1, 2, 3], "time": ["0", "soon", "2"], "variable": ["hr"] * 3, "value": [80, 90, 70]}
    tables = {"events": pa.table(events), "stays": pa.table({"id": [1, 2, 3], "start": ["0", "0", "late"]})}
    said = "events, row 1 (counted from 0), variable 'hr': id 2, column time: 'soon' is not a number of minutes"
    with pytest.raises(InputError) as error:
        compile_cohort(tmp_path / "other", **tables, start_column="start")
    assert said in str(error.value)
    compile_cohort(tmp_path / "out", **tables, start_column="start", skip_bad=True, fractions=[1, 0, 0])
    written = [(tmp_path / "out" / name).read_text() for name in ("skipped.csv", "manifest.json")]
    assert said in written[1]
    assert "stays, column start: the start is missing" in written[0]
    assert not any(".parquet" in text.replace("samples.parquet", "") for text in (str(error.value), *written))


def test_the_example_of_statistics_runs():
    rng = np.random.default_rng(0)
    label = (rng.random(300) < 0.3).astype(int)
    names = {"label": label, "logit": rng.normal(size=300) + label, "other": rng.normal(size=300)}
    exec(compile(EXAMPLES[2], str(DOC), "exec"), names)


def test_the_numbers_are_those_of_the_command(finished, compiled, tmp_path):
    file = tmp_path / "risks.csv"
    flags = {"ckpt": finished[0], "data_dir": compiled.path, "split": "test", "output": file, "batch_size": 8}
    assert command("predict", **flags)[0] in (0, 3)
    table = predict(load(finished[0] / "checkpoints" / "best.ckpt"), compiled.path, split="test")
    written = pyarrow.csv.read_csv(file)
    assert table["stay_id"].tolist() == written["stay_id"].to_pylist()
    assert table["logit"].tolist() == written["logit"].to_pylist()


def test_a_run_from_python_is_that_of_the_command(finished, old_layout, pretrained, tmp_path, capsys):
    """Settings of `finished`; the run has its log, and what follows takes it."""
    rates = {"cls_head_lr": 3e-3, "lr": 1e-3, "warmup_steps": 5, "unfreeze_after": 2, "max_epochs": 3, "batch_size": 6}
    where = {"pretrained_ckpt": pretrained, "data_dir": old_layout, "output_root_dir": tmp_path, "accelerator": "cpu"}
    run = finetune(**where, **rates, seed=3)
    assert rows_of(run) == rows_of(finished[0])
    assert "Best val_auc" in capsys.readouterr().out
    assert "Best val_auc" in (run / "train.log").read_text(encoding="utf-8")
    assert finetune(resume=run) == run  # which is finished
    assert "Nothing to do" in capsys.readouterr().out
    content = evaluate(ckpt=run, split="test", baselines="none", landmarks=[6, 12], accelerator="cpu")
    assert capsys.readouterr().out == ""
    succeeded(command("evaluate", ckpt=run, split="test", output=tmp_path / "command", landmarks=6))
    command_content = json.loads((tmp_path / "command" / "evaluation.json").read_text())
    assert content["figures"] == command_content["figures"]
    assert [landmark["hours"] for landmark in content["landmarks"]] == [6, 12]
    assert json.loads((run / "evaluation.json").read_text()) == json.loads(json.dumps(content))


def test_flags_of_predict_are_arguments(finished, compiled, tmp_path, capsys):
    file = tmp_path / "risks.parquet"
    flags = {"ckpt": finished[0], "data_dir": compiled.path, "split": "test", "output": file, "batch_size": 8}
    assert command("predict", every_set=True, **flags)[0] in (0, 3)
    capsys.readouterr()
    table = predict(load(finished[0]), compiled.path, split="test", every_set=True)
    assert capsys.readouterr() == ("", "")
    pd.testing.assert_frame_equal(table, pd.read_parquet(file))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda run: finetune(learning_rate=1, data_dir=run), r"--learning_rate=1: no such flag"),
        (lambda run: finetune(data_dir=run, lr="high"), r"lr: received 'high'"),
        (lambda run: finetune(data_dir=run, from_random_weights=True), r"unfreeze_after: received 1"),
        (lambda run: finetune(resume=run, mode="pretrain"), r"mode: "),
        (lambda run: evaluate(ckpt=run), "split: not given"),
        (lambda run: evaluate(ckpt=run, split="test", devices=2, accelerator="cpu"), "devices, num_nodes: allowed fro"),
        (lambda run: evaluate(ckpt=run, split="test", config="none.py"), "none.py: no such file"),
        (lambda run: predict(load(run), run, output="x.csv"), r"output: received 'x.csv'; leave it out"),
        (lambda run: predict(load(run), run, every_set=True, reasons=2), r"reasons: received together with"),
    ],
)
def test_wrong_arguments_are_the_errors_of_the_command(finished, call, said):
    with pytest.raises(InputError, match=said):
        call(finished[0])


def test_data_that_differ_from_the_training_data_are_a_warning(finished, old_layout, tmp_path):
    stays = tmp_path / "new" / "patient_ehr" / "test"
    shutil.copytree(old_layout / "test", stays)
    for file in stays.iterdir():
        pd.read_parquet(file).assign(minute=lambda rows: rows["minute"] / 60).to_parquet(file)
    with pytest.warns(UserWarning, match="is `minute` in hours"):
        table = predict(load(finished[0]), tmp_path / "new", cache_dir=tmp_path / "cache")
    assert table["logit"].notna().all()


def test_bad_input_is_one_clear_error(finished, tmp_path):
    with pytest.raises(InputError, match=r"checkpoint: received '.*missing', which does not exist"):
        load(tmp_path / "missing")
    with pytest.raises(InputError, match=r"data_dir: received .*missing., which does not exist"):
        predict(load(finished[0]), tmp_path / "missing")
    with pytest.raises(AttributeError, match="has no attribute 'train'"):
        seqsetvae.train  # noqa: B018
