"""Each task from the command line: fine-tune, evaluate, predict, report and export."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics

from seqsetvae.checkpoint.finetuned import load_finetuned
from seqsetvae.cohort import Cohort
from seqsetvae.evaluation import explain, onnx_file
from seqsetvae.evaluation.crossvalidation import read_columns
from seqsetvae.models import trees
from seqsetvae.report import write_comparison
from seqsetvae.tasks import TASKS, fitting, regression
from seqsetvae.tasks.spec import Spec
from tests.command import call, command, finetune, refused, rows_of, run_of, succeeded

LABELS = {
    "multilabel": ("died,long", ("val_auc", "val_auprc")),
    "multiclass": ("unit", ("val_auc", "val_accuracy")),
    "regression": ("days,score", ("val_r2",)),
}


@pytest.fixture(scope="module")
def labels(compiled: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels that depend on the number of events of each stay; some stays lack some, two lack all."""
    rng, rows = np.random.default_rng(0), []
    counts = [np.diff(split.set_offset[split.stay_offset]) for split in compiled.splits.values()]
    thirds = np.quantile(np.concatenate(counts), [1 / 3, 2 / 3])
    for split in compiled.splits.values():
        n_events = np.diff(split.set_offset[split.stay_offset])
        for at, (stay, n) in enumerate(zip(split.stay_id.tolist(), n_events.tolist(), strict=True)):
            days = n / 20 + rng.normal(0, 0.5)
            row = [
                stay,
                int(days > 6),
                int(days > 5),
                "abc"[np.searchsorted(thirds, n)],
                f"{days:.3f}",
                f"{10 * days:.1f}",
            ]
            empty = range(1, 6) if at < 2 else (5,) if at % 5 == 0 else ()
            rows.append(["" if column in empty else cell for column, cell in enumerate(row)])
    file = tmp_path_factory.mktemp("labels") / "oc.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["ts_id", "died", "long", "unit", "days", "score"], *rows])
    return file


@pytest.fixture(scope="module", params=list(LABELS))
def run(
    request: pytest.FixtureRequest,
    pretrained: Path,
    compiled: Cohort,
    labels: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path, str]:
    """(task, run folder, what was printed) of a small run of both stages."""
    root = tmp_path_factory.mktemp(request.param)
    flags = {"task": request.param, "label_name": LABELS[request.param][0], "label_path": labels}
    said = succeeded(finetune(pretrained, compiled.path, root, **flags))
    return request.param, run_of(root), said


def test_a_run_trains_the_task_and_watches_its_metric(run):
    task, folder, said = run
    watched = LABELS[task][1]
    rows = rows_of(folder)
    assert [row["stage"] for row in rows] == ["1", "1", "2"]
    assert all(np.isfinite(float(row[name])) for row in rows for name in ("train_loss", "val_loss", *watched))
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["watched"] == watched[0]
    assert summary["best"][watched[0]] == max(float(row[watched[0]]) for row in rows)
    calibrated = {"multiclass": "temperature scaling", "multilabel": "Platt scaling of each label, slopes"}
    is_calibrated = task in calibrated
    assert (f"Predictions of --task {task} are not calibrated" in said) is not is_calibrated
    assert (f"Calibration fitted on the valid split (18 stays): {calibrated.get(task)}" in said) is is_calibrated
    assert "Stays without a label, left out: train 2, valid 2" in said
    assert (folder / "calibration.json").exists() is is_calibrated
    recorded = load_finetuned(folder / "checkpoints" / "best.ckpt")
    assert recorded.model.spec.title == LABELS[task][0]


def test_evaluate_gives_the_figures_of_the_table_of_predictions(run, tmp_path):
    task, folder, _ = run
    groups = tmp_path / "groups.csv"
    stays = pd.read_csv(json.loads((folder / "config.json").read_text())["cohort"]["label_file"])["ts_id"]
    pd.DataFrame({"stay_id": stays, "odd": stays % 2}).to_csv(groups, index=False)
    said = succeeded(command("evaluate", ckpt=folder, split="valid", subgroups=groups, landmarks=12, smallest_group=1))
    assert call(["--mode", "report", "--runs", str(folder)])[0] == 0
    content = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    table = pd.read_csv(folder / "predictions.csv")
    assert (content["task"], content["stays"], len(table)) == (task, 18, 20)
    assert content["checkpoint"] == f"{folder.name}/checkpoints/best.ckpt"
    assert "Of 20 stays, 2 have no label; they are left out." in said
    values = {name: figure["value"] for name, figure in content["figures"].items()}
    if task == "multilabel":
        known = table.dropna(subset="died")
        auroc = metrics.roc_auc_score(known["died"], known["probability of died"])
        assert values["AUROC of died"] == pytest.approx(auroc)
        brier = metrics.brier_score_loss(known["died"], known["calibrated_probability of died"])
        assert values["Brier score of died"] == pytest.approx(brier)
    elif task == "multiclass":
        known = table.dropna(subset="unit")
        assert values["accuracy"] == pytest.approx((known["unit"] == known["predicted"]).mean())
        calibrated = known[[f"calibrated_probability of {name}" for name in "abc"]]
        assert values["log loss"] == pytest.approx(metrics.log_loss(known["unit"], calibrated))
        assert values["log loss"] < metrics.log_loss(known["unit"], known[[f"probability of {name}" for name in "abc"]])
        assert any(
            "The calibration was fitted on these stays" in caution
            for caution in [each["text"] for each in content["findings"]]
        )
    else:
        known = table.dropna(subset="score")
        assert len(known) == 16 - 1
        error = metrics.mean_absolute_error(known["score"], known["predicted score"])
        assert values["MAE of score"] == pytest.approx(error)
    assert all(each["low"] <= each["value"] <= each["high"] for each in content["figures"].values() if each["low"])
    assert [row["group"] for row in content["subgroups"]] == ["0", "1"]
    (early,) = content["landmarks"]
    assert (early["hours"], early["figures"].keys()) == (12, content["figures"].keys())
    assert 0 < early["stays"] <= 18
    assert early["figures"] != content["figures"]
    assert "  12 h" in said
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert next(iter(content["figures"])) in page
    assert f"({task})" in page.partition("</title>")[0]
    assert ("Predicted and observed numbers" if task == "regression" else "Calibration and predicted risk") in page


def test_predict_needs_no_labels_and_gives_the_evaluated_numbers(run, compiled, old_layout, tmp_path):
    task, folder, _ = run
    tables = []
    for name, data in (("cohort", compiled.path), ("layout", old_layout)):
        flags = {"data_dir": data, "output": tmp_path / f"{name}.csv", "output_root_dir": tmp_path}
        succeeded(command("predict", ckpt=folder, **flags))
        tables.append(pd.read_csv(tmp_path / f"{name}.csv"))
    pd.testing.assert_frame_equal(*tables)
    columns = {
        "multilabel": [
            f"{kind} of {name}" for kind in ("probability", "calibrated_probability") for name in ("died", "long")
        ],
        "multiclass": [
            "predicted",
            *(f"{kind} of {name}" for kind in ("probability", "calibrated_probability") for name in "abc"),
        ],
        "regression": ["predicted days", "predicted score"],
    }[task]
    assert tables[0].columns.tolist() == ["stay_id", "split", *columns, *LABELS[task][0].split(","), "reason"]
    assert command("evaluate", ckpt=folder, split="valid", output=tmp_path / "evaluated")[0] == 0
    evaluated = pd.read_csv(tmp_path / "evaluated" / "predictions.csv")
    valid = tables[0][tables[0]["split"] == "valid"].reset_index(drop=True)
    pd.testing.assert_frame_equal(evaluated[["stay_id", *columns]], valid[["stay_id", *columns]])
    assert evaluated.columns.tolist() == valid.columns.tolist()
    assert valid[LABELS[task][0].split(",")].isna().all(axis=None)  # predict reads no labels
    flags = {"data_dir": compiled.path, "output": tmp_path / "sets.csv", "output_root_dir": tmp_path, "split": "valid"}
    assert command("predict", ckpt=folder, every_set="true", **flags)[0] == 0
    sets = pd.read_csv(tmp_path / "sets.csv")
    assert sets.columns.tolist() == ["stay_id", "set_index", "minute", *columns]
    last = sets.groupby("stay_id", sort=False).tail(1).reset_index(drop=True)
    pd.testing.assert_frame_equal(last[["stay_id", *columns]], valid[["stay_id", *columns]], rtol=1e-4)


def test_baselines_are_trained_on_the_same_stays(run, tmp_path, monkeypatch):
    pytest.importorskip("lightgbm")
    monkeypatch.setattr(fitting, "MOST_ROUNDS", 20)
    _, folder, _ = run
    flags = {"ckpt": folder, "split": "valid", "output": tmp_path / "evaluated", "baselines": "all"}
    said = succeeded(command("evaluate", **flags))
    content = json.loads((tmp_path / "evaluated" / "evaluation.json").read_text(encoding="utf-8"))
    assert len(content["baselines"]) == 3
    assert "The baselines were stopped or chosen on the validation split" in said
    for other in content["baselines"].values():
        assert other["figures"].keys() == content["figures"].keys()
        for name, difference in other["difference"].items():
            if difference["value"] is not None:
                expected = content["figures"][name]["value"] - other["figures"][name]["value"]
                assert difference["value"] == pytest.approx(expected)


def test_a_comparison_says_which_baseline_is_better_and_a_damaged_evaluation_is_one_error(run, tmp_path):
    _, folder, _ = run
    copy, other = (shutil.copytree(folder, tmp_path / name) for name in ("copy", "other"))
    (other / "evaluation.json").unlink(missing_ok=True)
    assert command("evaluate", ckpt=copy, split="valid")[0] == 0
    content = json.loads((copy / "evaluation.json").read_text(encoding="utf-8"))
    name = next(iter(content["figures"]))
    figure = {"value": -0.3, "low": -0.4, "high": -0.2}
    content["baselines"] = {"boosted trees": {"figures": content["figures"], "difference": {name: figure}}}
    (copy / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    for kind in ("without", "with"):
        if kind == "with":
            shutil.copy(copy / "evaluation.json", other)
        page = write_comparison([copy, other], tmp_path / kind).read_text(encoding="utf-8")
        assert "copy: This model is worse than boosted trees" in page
        assert ("Without an evaluation, and so without intervals" in page) is (kind == "without")
        assert "differ in their data" not in page
    for key, value in {"figures": 5, "baselines": {"x": {}}, "split": None, "stays": "many"}.items():
        (copy / "evaluation.json").write_text(json.dumps(content | {key: value}), encoding="utf-8")
        assert "evaluation.json: damaged (" in refused(call(["--mode", "report", "--runs", str(copy)]))


SEVERAL = "contributions are to one score"


def test_what_is_not_available_for_a_task_is_one_clear_error(run, compiled, tmp_path):
    task, folder, _ = run
    wrong = [
        ("predict", {"output": tmp_path / "x.parquet", "schema": "meds"}, "--schema: not available for --task {task}"),
        ("predict", {"output": tmp_path / "x.csv", "explain": "1"}, SEVERAL),
        ("predict", {"output": tmp_path / "x.csv", "reasons": "1"}, SEVERAL),
        ("evaluate", {"output": tmp_path / "x", "split": "test", "explain": "1"}, SEVERAL),
        *(
            ("evaluate", {"output": tmp_path / "x", "split": "test", flag: value}, f"--{flag}: not available for")
            for flag, value in (("threshold_for", "sensitivity=0.8"), ("abstain", 0.1))
        ),
    ]
    for mode, flags, said in wrong:
        errors = refused(command(mode, ckpt=folder, **flags))
        assert said.format(task=task) in errors
    assert not list(tmp_path.iterdir())


def test_contributions_to_a_number_add_up_to_it(pretrained, compiled, labels, tmp_path, monkeypatch):
    """A task with one column of numbers has one score, in the unit of the column."""
    monkeypatch.setattr(explain, "STEPS", 64)
    flags = {"task": "regression", "label_name": "days", "label_path": labels, "max_epochs": 1, "unfreeze_after": 1}
    succeeded(finetune(pretrained, compiled.path, tmp_path, **flags))
    stay = int(compiled.split("test").stay_id[0])
    for name, more in (("risks.csv", {}), ("why.csv", {"explain": stay}), ("reasons.csv", {"reasons": 1})):
        words = {"ckpt": run_of(tmp_path), "split": "test", "output": tmp_path / name}
        assert command("predict", **words, **more)[0] == 0
    rows = {name: list(csv.DictReader((tmp_path / name).open())) for name in ("risks.csv", "why.csv", "reasons.csv")}
    (score,) = [float(row["predicted days"]) for row in rows["risks.csv"] if int(row["stay_id"]) == stay]
    assert sum(float(row["contribution"]) for row in rows["why.csv"]) == pytest.approx(score, abs=1e-2)
    assert all(row["contribution_1"] for row in rows["reasons.csv"])


def test_an_exported_task_predicts_the_same(run, compiled, tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    monkeypatch.setattr(onnx_file, "missing_packages", lambda: ["onnx"])  # its import takes seconds
    task, folder, _ = run
    flags = ["--mode", "export", "--ckpt", str(folder), "--output", str(tmp_path / "model")]
    said = succeeded(call([*flags, "--output_root_dir", str(tmp_path)]))
    assert ("Calibration fitted on" in said) is (task != "regression")
    assert "No calibration" not in said  # a task that has none misses none
    assert (tmp_path / "model" / "calibration.json").exists() is (task != "regression")
    card = json.loads((tmp_path / "model" / "card.json").read_text(encoding="utf-8"))
    assert card["checkpoint"]["hyper_parameters"]["task"]["task"] == task
    assert card["label"] == LABELS[task][0]
    files = []
    for name, ckpt in (("run", folder), ("model", tmp_path / "model")):
        output = {"output": tmp_path / f"{name}.csv", "output_root_dir": tmp_path}
        assert command("predict", ckpt=ckpt, data_dir=compiled.path, **output)[0] == 0
        files.append((tmp_path / f"{name}.csv").read_text(encoding="utf-8"))
    assert files[0] == files[1]


def test_an_ensemble_and_several_workers_train_a_task_too(compiled, labels, tmp_path):
    flags = {"task": "regression", "label_name": "days", "label_path": labels, "max_epochs": 2, "num_workers": 1}
    flags |= {"average": "network"}
    flags |= {"architecture": "variable_summaries", "from_random_weights": "true"}
    said = succeeded(command("finetune", data_dir=compiled.path, output_root_dir=tmp_path, **flags))
    assert "head_members 16" in said
    assert "Boosted trees" not in said
    succeeded(command("evaluate", ckpt=run_of(tmp_path), split="valid"))


@pytest.mark.parametrize(
    ("task", "average"),
    [*((task, "folds") for task in LABELS), pytest.param("multilabel", "fixed", marks=pytest.mark.slow)],
)
def test_every_task_predicts_an_average_of_members(task, average, compiled, labels, tmp_path, monkeypatch):
    """The average of what each member alone predicts, from the checkpoint alone."""
    pytest.importorskip("lightgbm", reason="boosted trees need lightgbm")
    monkeypatch.setattr(trees, "ROUNDS", 15)
    flags = {"architecture": "variable_summaries", "from_random_weights": "true", "max_epochs": 1, "average": average}
    flags |= {"task": task, "label_name": LABELS[task][0], "label_path": labels, "tree_models": 2, "head_members": 2}
    output = tmp_path / "cv"
    folds = {"folds": 1, "baselines": "none", "output": output}
    succeeded(command("crossvalidate", data_dir=compiled.path, **flags, **folds))
    (run,) = (output / "runs").glob("finetune-*")
    weights = {n: m["weight"] for n, m in json.loads((run / "config.json").read_text())["members"].items()}
    assert len(weights) == (4 if average == "folds" else 2)
    result = json.loads((output / "crossvalidation.json").read_text(encoding="utf-8"))
    assert result["first"] == "variable_summaries"
    assert result["models"]["network alone"]["difference_to_first"].keys() == set(result["primary"])
    (file,) = output.glob("*fold0.csv")
    columns = read_columns(file)
    for name in (name for name in columns if name.startswith("variable_summaries")):
        place = name.removeprefix("variable_summaries")
        mean = sum(weight * columns[f"{member} alone{place}"] for member, weight in weights.items())
        np.testing.assert_allclose(columns[name], mean, atol=1e-5)
    succeeded(command("evaluate", ckpt=run, split="valid", data_dir=compiled.path, label_path=labels))
    content = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert {name: each["weight"] for name, each in content["members"].items()} == weights
    assert all(each["difference"].keys() == set(content["primary"]) for each in content["members"].values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"task": "regression"}, "label_name: not given; names the column or, with commas, the columns with --task"),
        (
            {"task": "regression", "label_name": "days", "loss": "focal"},
            "loss: received 'focal'; allowed: cross_entropy",
        ),
        ({"task": "multilabel", "label_name": "died,died"}, "label_name: received 'died,died'; name each column once"),
        ({"task": "regression", "label_name": "days", "class_weight": "balanced"}, "class_weight: received 'balanced'"),
        ({"task": "regression", "label_name": "days"}, "has no file of labels; pass --label_path"),
        (
            {"task": "regression", "label_name": "weeks", "label_path": "FILE"},
            "has no column 'weeks'. Its columns are:",
        ),
        ({"task": "regression", "label_name": "unit", "label_path": "FILE"}, "the column 'unit' has the value '"),
    ],
)
def test_settings_and_labels_that_do_not_go_together_are_found_first(
    flags, message, pretrained, compiled, labels, tmp_path
):
    given = {name: labels if value == "FILE" else value for name, value in flags.items()}
    assert message in refused(finetune(pretrained, compiled.path, tmp_path, **given))
    assert not list(tmp_path.glob("finetune-*"))


def test_a_task_is_added_without_a_change_to_the_package(pretrained, compiled, labels, tmp_path, monkeypatch):
    def fit(*arguments: Any) -> Spec:
        return replace(regression.fit(*arguments), task="absolute")

    def loss(spec: Spec, output: torch.Tensor, target: torch.Tensor, *others: Any) -> torch.Tensor:
        known = ~target.isnan()
        return ((output - target.nan_to_num()).abs() * known).sum() / known.sum()

    monkeypatch.setitem(TASKS, "absolute", SimpleNamespace(**{**vars(regression), "fit": fit, "loss": loss}))
    flags = {"task": "absolute", "label_name": "days", "label_path": labels, "max_epochs": 1}
    succeeded(finetune(pretrained, compiled.path, tmp_path, **flags))
    said = succeeded(command("evaluate", ckpt=run_of(tmp_path), split="valid"))
    assert "task absolute, split valid: 18 stays; label days" in said


@pytest.mark.parametrize("task", LABELS)
def test_cross_validation_has_the_metrics_of_the_held_out_predictions(
    task, pretrained, compiled, labels, tmp_path, monkeypatch
):
    monkeypatch.setattr(fitting, "MOST_ROUNDS", 10)
    has_baselines = task == "regression"  # they take seconds
    flags = {"task": task, "label_name": LABELS[task][0], "label_path": labels, "data_dir": compiled.path}
    flags |= {"pretrained_ckpt": pretrained, "folds": 2, "max_epochs": 1, "batch_size": 8, "output": tmp_path / "cv"}
    baselines = "all" if has_baselines else "none"
    said = succeeded(command("crossvalidate", **flags, baselines=baselines, output_root_dir=tmp_path))
    result = json.loads((tmp_path / "cv" / "crossvalidation.json").read_text(encoding="utf-8"))
    tables = [pd.read_csv(file) for file in sorted((tmp_path / "cv").glob("partition0-fold*.csv"))]
    assert sum(map(len, tables)) == result["predictions"] == 58 + 18  # all but the 2 + 2 without any label
    expected = []
    for table, others in zip(tables, tables[::-1], strict=True):  # a fold is trained on the stays of the other
        if task == "multilabel":
            known = [table.dropna(subset=f"label {name}") for name in ("died", "long")]
            pairs = [
                (each[f"label {name}"], each[f"seqsetvae[{k}]"])
                for k, (name, each) in enumerate(zip(("died", "long"), known, strict=True))
            ]
            expected.append(np.mean([metrics.roc_auc_score(*pair) for pair in pairs]))
        elif task == "multiclass":
            outputs = table[[f"seqsetvae[{k}]" for k in range(3)]].to_numpy()
            expected.append((outputs.argmax(axis=1) == table["label unit"]).mean())
        else:
            mean, std = others["label days"].mean(), others["label days"].std(ddof=0)
            expected.append((table["seqsetvae[0]"] * std + mean - table["label days"]).abs().mean())
    metric = {"multilabel": "mean AUROC", "multiclass": "accuracy", "regression": "MAE of days"}[task]
    assert result["models"]["seqsetvae"][metric]["by_fold"] == pytest.approx(expected)
    assert metric in said
    if has_baselines:
        assert list(result["models"]) == ["seqsetvae", "boosted trees", "ridge regression"]
        assert "difference_to_ridge_regression" in result["models"]["seqsetvae"]


def test_labels_beside_an_old_layout_are_found(pretrained, old_layout, labels, tmp_path):
    (tmp_path / "data").mkdir()
    for file in old_layout.parent.iterdir():
        if file.name != "oc.csv":
            (tmp_path / "data" / file.name).symlink_to(file)
    (tmp_path / "data" / "oc.csv").write_text(labels.read_text(encoding="utf-8"), encoding="utf-8")
    flags = {"task": "multilabel", "label_name": "died,long", "max_epochs": 1}
    succeeded(finetune(pretrained, tmp_path / "data", tmp_path / "runs", **flags))
    succeeded(command("evaluate", ckpt=run_of(tmp_path / "runs"), split="valid"))
