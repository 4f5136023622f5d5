"""What a report reads from a run folder: missing files are left out, damaged ones are one clear error."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest

from seqsetvae.report.run_files import read_metrics, read_predictions, read_run
from seqsetvae.system.errors import InputError
from tests.command import rows_of

HEAD = "stay_id,split,logit,probability,calibrated_probability,label,reason\n"


def test_a_finished_run_is_read_whole(finished):
    run = read_run(finished[0])
    summary = json.loads((finished[0] / "summary.json").read_text())
    assert run.mode == "finetune"
    assert run.best is not None
    assert run.best["val_auc"] == pytest.approx(summary["best"]["val_auc"])
    assert run.best["epoch"] == summary["best_epoch"]
    assert [row["val_loss"] for row in run.rows] == [float(row["val_loss"]) for row in rows_of(finished[0])]
    assert run.metrics == ["train_loss", "val_loss", "val_auc", "val_auprc"]
    assert run.cohort is not None
    assert (run.evaluation, run.stays) == (None, None)


def test_the_best_epoch_is_that_of_the_summary_and_before_the_end_the_first_of_the_best(run):
    (run / "metrics.csv").write_text("stage,epoch,val_auc\n1,1,0.6\n1,2,0.8\n2,3,0.8\n")
    (run / "summary.json").write_text(json.dumps({"watched": "val_auc", "best_epoch": 3}))
    assert read_run(run).best == {"stage": 2, "epoch": 3, "val_auc": 0.8}
    (run / "summary.json").unlink()
    assert read_run(run).best == {"stage": 1, "epoch": 2, "val_auc": 0.8}


def test_data_that_have_moved_or_changed_are_not_described(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    for change in ({"path": str(tmp_path / "gone")}, {"data": "0" * 64}):
        changed = config | {"cohort": config["cohort"] | change}
        (tmp_path / "run" / "config.json").write_text(json.dumps(changed))
        assert read_run(tmp_path / "run").cohort is None


def test_a_folder_without_config_is_not_a_run_folder(tmp_path):
    with pytest.raises(InputError, match="is not a run folder"):
        read_run(tmp_path)


def test_predictions_of_the_split_without_unlabelled_and_unpredicted_stays(tmp_path):
    file = tmp_path / "predictions.csv"
    file.write_text(
        HEAD + "5,valid,0.5,0.6,0.7,1,\n6,valid,-1,0.25,0.2,0,\n7,valid,1,0.7,0.8,,\n8,valid,,,,1,no events\n"
        "9,test,1,0.7,0.8,1,\n10,,,,,,no events\n"
    )
    stays = read_predictions(file, "valid")
    assert stays.stay_id.tolist() == [5, 6]
    assert stays.label.tolist() == [1, 0]
    assert stays.risk.tolist() == [0.7, 0.2]
    assert read_predictions(file, None).split == "test"


def test_predictions_as_parquet_are_read_like_those_as_csv(example):
    file = example / "predictions.csv"
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(file), file.with_suffix(".parquet"))
    before = read_predictions(example / "predictions.csv", "train")
    with pytest.raises(InputError, match=r"has predictions\.csv and predictions\.parquet, and a report reads one"):
        read_run(example)
    file.unlink()
    run = read_run(example)
    assert run.stays is not None
    assert np.array_equal(run.stays.stay_id, before.stay_id)
    assert np.array_equal(run.stays.risk, before.risk)


def test_without_a_calibrator_the_risk_is_the_probability(tmp_path):
    file = tmp_path / "predictions.csv"
    file.write_text(HEAD + "5,valid,0.5,0.6,,1,\n6,valid,-1,0.25,,0,\n")
    assert read_predictions(file, "valid").risk.tolist() == [0.6, 0.25]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stay_id,split\n1,valid\n", "has no column reason"),
        (HEAD.replace("label,", "") + "5,valid,0.5,0.6,,\n", "has no column label"),
        (HEAD + "5,valid,0.5,0.6,,2,\n", "column label: 1 values are not 0, 1 or empty, for example 2"),
        (HEAD + "5,valid,0.5,1.6,,1,\n", "column probability: 1 values are not between 0 and 1, for example 1.6"),
        (HEAD + "5,valid,high,0.6,,1,\n", "column logit: not a column of numbers"),
        (HEAD + "five,valid,0.5,0.6,,1,\n", "cannot be read as a table"),
        (HEAD + "5,valid,inf,0.6,,1,\n", "column logit: 1 values are not finite numbers, for example inf"),
        (HEAD + ",valid,0.5,0.6,,1,\n", "column stay_id: 1 rows have none"),
        (HEAD.replace("reason", "label") + "5,valid,0.5,0.6,,1,1\n", "has no column reason"),
        (HEAD.replace("\n", ",label\n") + "5,valid,0.5,0.6,,1,,1\n", "column label occurs twice; keep one of the two"),
        (HEAD.replace("\n", ",split\n") + "5,valid,0.5,0.6,,1,,1\n", "column split occurs twice"),
        (HEAD + "5,train,0.5,0.6,,1,\n", "has no stay of the split 'valid'"),
        ("", "cannot be read as a table"),
    ],
)
def test_predictions_that_cannot_be_used_are_one_error(tmp_path, text, message):
    file = tmp_path / "predictions.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=r"predictions\.csv") as error:
        read_predictions(file, "valid")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage,epoch,step,val_auc\n1,1,5,high\n", "cannot be read as a table of numbers"),
        ("Stage,Epoch,Step,val_auc\n1,1,5,0.5\n", "has no column stage, epoch; it has Stage, Epoch, Step"),
        ("stage;epoch;step;val_auc\n1;1;5;0.5\n", "has no column stage, epoch; it has stage;epoch;step;val_auc"),
        ("stage,epoch,step,val_auc,val_auc\n1,1,5,0.5,0.6\n", "column val_auc occurs twice"),
        ("stage,epoch,step,val_auc\n1,,5,0.5\n", "row 0 (counted from 0): stage or epoch is not a number"),
        ("stage,epoch,step,val_auc\n1,inf,5,0.5\n", "row 0 (counted from 0): stage or epoch is not a number"),
        ("", "has no column stage, epoch"),
    ],
)
def test_metrics_that_are_no_table_of_numbers_are_an_error(tmp_path, text, message):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(InputError, match=r"metrics\.csv") as error:
        read_metrics(tmp_path / "metrics.csv")
    assert message in str(error.value)


def test_metrics_may_have_the_byte_order_mark_of_excel(tmp_path):
    (tmp_path / "metrics.csv").write_text("stage,epoch,step\n1,1,5\n", encoding="utf-8-sig")
    assert read_metrics(tmp_path / "metrics.csv") == [{"stage": 1, "epoch": 1, "step": 5}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"figures": None}, "'figures' is missing"),
        ({"figures": 5}, "figures is 5, which has the wrong type"),
        ({"stays": "many"}, "stays is 'many', which has the wrong type"),
        ({"stays": float("nan")}, "stays is nan, which has the wrong type"),
        ({"figures": {"auroc": {"value": "x"}}}, "figures/auroc/value is 'x', which has the wrong type"),
        ({"subgroups": [{"column": "age"}]}, "'group' is missing in subgroups[0]"),
        ({"curves": [{"outcome": "death"}]}, "'stays' is missing in curves[0]"),
        ({"curves": [{"column": "days", "stays": 5, "groups": 5}]}, "curves[0]/groups is 5, which has the wrong type"),
        ({"curves": [5]}, "curves[0] is 5, which has the wrong type"),
        ({"findings": [{"level": "loud", "text": ""}]}, "findings[0]/level is 'loud', which has the wrong type"),
    ],
)
def test_a_damaged_evaluation_is_one_error(example, change, message):
    file = example / "evaluation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=r"evaluation\.json: damaged") as error:
        read_run(example)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("summary.json", {"seconds": "5"}),
        ("summary.json", {"stays_per_second": 5}),
        ("summary.json", {"trained": {"1": 5}}),
        ("summary.json", {"advice": [None]}),
        ("summary.json", {"head_alone": 5}),
        ("run_state.json", {"passes": [{"stays": 5, "seconds": "5"}]}),
        ("run_state.json", {"passes": 5}),
        ("config.json", {"settings": [1]}),
        ("config.json", {"cohort": "x"}),
        ("config.json", {"cohort": {"notices": 3}}),
    ],
    ids=str,
)
def test_a_value_of_another_type_in_a_summary_is_one_error(finished, tmp_path, name, change):
    run = Path(shutil.copytree(finished[0], tmp_path / "run"))
    (run / name).write_text(json.dumps(json.loads((run / name).read_text()) | change))
    with pytest.raises(InputError, match=rf"{name}: damaged \({next(iter(change))}.* is "):
        read_run(run)
