"""--mode predict: one row for every stay, labelled or not, and what it says about data that differ."""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import expit

from seqsetvae.batches.loading import collate
from seqsetvae.checkpoint.finetuned import load_finetuned
from seqsetvae.cohort import open_cohort
from seqsetvae.cohort.manifest import CHECKSUM, manifest_checksum
from seqsetvae.evaluation import explain
from seqsetvae.evaluation.calibration import read_calibration, write_calibration
from seqsetvae.tasks.binary import Calibration
from seqsetvae.tasks.spec import Recalibrated
from tests.command import argv, call, command, finetune, refused, run_of, succeeded
from tests.prefixes import cut_after

COLUMNS = ["stay_id", "split", "logit", "probability", "calibrated_probability", "label", "reason"]


def _predict(run: Path, output: Path, **flags: object) -> tuple[int, list[dict[str, str]], str, str]:
    """(status, rows, what was printed, errors); without a file no rows."""
    given = {"ckpt": run, "output": output, "output_root_dir": output.parent / "cache", **flags}
    status, said, errors = command("predict", **given)
    if output.suffix != ".csv" or status == 2:
        return status, [], said, errors
    with output.open(newline="", encoding="utf-8") as file:
        return status, list(csv.DictReader(file)), said, errors


@pytest.fixture
def unlabelled(old_layout: Path, tmp_path: Path) -> Path:
    """The test stays as an old layout without labels, statistics and embeddings."""
    shutil.copytree(old_layout / "test", tmp_path / "new" / "patient_ehr" / "test")
    return tmp_path / "new"


def _stay(file: Path) -> str:
    """The number in a name such as 900081.0.parquet."""
    return file.name.split(".")[0]


def _change(folder: Path, change: object) -> None:
    """Apply `change` to the rows of every stay of an old layout."""
    for file in sorted((folder / "patient_ehr" / "test").iterdir()):
        change(pd.read_parquet(file), file).to_parquet(file)  # type: ignore[operator]


# ------------------------------------------------------------------ the table


def test_every_stay_of_every_split_has_a_row(finished, compiled, tmp_path):
    status, rows, said, errors = _predict(finished[0], tmp_path / "all.csv")
    assert status == 0, errors
    assert list(rows[0]) == COLUMNS
    expected = [
        (str(stay), name, str(label))
        for name, split in compiled.splits.items()
        for stay, label in zip(split.stay_id, split.label, strict=True)
    ]
    assert [(row["stay_id"], row["split"], row["label"]) for row in rows] == expected
    assert all(row["reason"] == "" for row in rows)
    assert f"Wrote {tmp_path / 'all.csv'}: 100 rows, of the splits train, valid, test" in said


def test_the_logit_is_the_log_odds_of_class_1(finished, compiled, tmp_path):
    _, rows, _, _ = _predict(finished[0], tmp_path / "test.csv", split="test", batch_size=1)
    model = load_finetuned(finished[0] / "checkpoints" / "best.ckpt").model
    table, split = torch.from_numpy(compiled.embeddings.copy()).float(), compiled.split("test")
    with torch.no_grad():
        for n, row in enumerate(rows):
            logits = model(collate(split, np.array([n]), change=compiled.variables.z_scores), table)[0]
            assert float(row["logit"]) == float(logits[1].double() - logits[0].double())
            probability = float(logits.double().softmax(0)[1])
            assert float(row["probability"]) == pytest.approx(probability, abs=1e-12)


def test_predictions_equal_those_of_evaluate_bit_for_bit(finished, tmp_path):
    _predict(finished[0], tmp_path / "test.csv", split="test")
    succeeded(command("evaluate", ckpt=finished[0], split="test", output=tmp_path / "evaluated"))
    assert (tmp_path / "test.csv").read_bytes() == (tmp_path / "evaluated" / "predictions.csv").read_bytes()


def test_calibrated_probabilities_follow_calibration_json(run, tmp_path):
    _, rows, said, _ = _predict(run, tmp_path / "with.csv", split="test")
    assert "Calibration fitted on the valid split (20 stays" in said
    calibration = pd.read_json(run / "calibration.json", typ="series")
    for row in rows:
        expected = expit(calibration["slope"] * float(row["logit"]) + calibration["intercept"])
        assert float(row["calibrated_probability"]) == pytest.approx(expected, abs=1e-12)
    (run / "calibration.json").unlink()
    _, rows, said, _ = _predict(run, tmp_path / "without.csv", split="test")
    assert {row["calibrated_probability"] for row in rows} == {""}
    assert "No calibration: there is no" in said
    assert not (run / "calibration.json").exists()


def test_a_calibration_of_another_checkpoint_is_not_applied(finished, tmp_path):
    _, rows, said, _ = _predict(finished[0] / "checkpoints" / "last.ckpt", tmp_path / "last.csv", split="test")
    assert {row["calibrated_probability"] for row in rows} == {""}
    assert "belongs to another checkpoint than last.ckpt" in said


# ------------------------------------------------------------------ unlabelled data


def test_an_unlabelled_folder_without_side_files_is_predicted(finished, unlabelled, tmp_path):
    """Statistics and embeddings are those of the run's data; the numbers are those of the labelled stays."""
    _, labelled, _, _ = _predict(finished[0], tmp_path / "labelled.csv", split="test")
    status, rows, _, errors = _predict(finished[0], tmp_path / "new.csv", data_dir=unlabelled)
    assert status == 0, errors
    assert [row | {"label": ""} for row in labelled] == rows


def test_a_checkpoint_of_an_earlier_version_is_bound_to_side_files_which_must_be_those_of_its_training(
    finished, old_layout, unlabelled, tmp_path
):
    """It records a hash of the mean, std and vector of each variable, and no table of them."""
    content = torch.load(finished[0] / "checkpoints" / "best.ckpt", weights_only=True)
    table = content.pop("variables")
    rows = np.column_stack([table["mean"], table["std"], table["vectors"].numpy()])
    hashes = {name: sha256(row.tobytes()).hexdigest()[:16] for name, row in zip(table["names"], rows, strict=True)}
    content["hyper_parameters"]["variable_fingerprints"] = hashes
    earlier = tmp_path / "earlier.ckpt"
    torch.save(content, earlier)
    _, expected, _, _ = _predict(finished[0], tmp_path / "now.csv", split="test", data_dir=old_layout)
    status, found, _, errors = _predict(
        tmp_path / "earlier.ckpt", tmp_path / "a.csv", split="test", data_dir=old_layout
    )
    assert status == 0, errors
    assert [row["logit"] for row in found] == [row["logit"] for row in expected]
    del content["hyper_parameters"]["variable_fingerprints"]  # and it may record nothing of them
    torch.save(content, tmp_path / "without.ckpt")
    status, found, _, errors = _predict(
        tmp_path / "without.ckpt", tmp_path / "e.csv", split="test", data_dir=old_layout
    )
    assert status == 0, errors
    assert [row["logit"] for row in found] == [row["logit"] for row in expected]
    status, _, _, errors = _predict(earlier, tmp_path / "b.csv", data_dir=unlabelled)
    assert status == 2
    assert "embeddings of width 12; those of the data" in errors
    shutil.copy(old_layout.parent / "cached.csv", unlabelled)
    status, _, _, errors = _predict(earlier, tmp_path / "c.csv", data_dir=unlabelled)
    assert status == 2
    assert "there is no train split to compute statistics from. Pass a stats.csv (--params_map_path)" in errors
    stats = (old_layout.parent / "stats.csv").read_text(encoding="utf-8")
    (unlabelled / "stats.csv").write_text(stats.replace("lactate,", "lactate,1"), encoding="utf-8")
    status, _, _, errors = _predict(earlier, tmp_path / "d.csv", data_dir=unlabelled)
    assert status == 2
    assert "was trained with another mean, std or embedding of 1 variable: lactate" in errors


def test_evaluating_unlabelled_stays_is_still_refused(finished, unlabelled):
    errors = refused(command("evaluate", ckpt=finished[0], split="test", data_dir=unlabelled))
    assert "no oc.csv beside it or in it, so its stays have no labels" in errors


def test_a_file_of_other_labels_counts_as_none(finished, unlabelled, tmp_path):
    (unlabelled / "oc.csv").write_text("ts_id,readmission\n900081,1\n")
    status, rows, _, errors = _predict(finished[0], tmp_path / "new.csv", data_dir=unlabelled)
    assert status == 0, errors
    assert {row["label"] for row in rows} == {""}
    errors = refused(command("evaluate", ckpt=finished[0], split="test", data_dir=unlabelled))
    assert "has no column in_hospital_mortality. Its columns are: ts_id, readmission" in errors


def test_a_compiled_cohort_with_another_label_is_predicted_without_labels(finished, compiled, tmp_path):
    """The labels there mean something else, so the column stays empty."""
    shutil.copytree(compiled.path, tmp_path / "other")
    manifest = open_cohort(compiled.path).manifest | {"label_name": "readmission"}
    manifest[CHECKSUM] = manifest_checksum(manifest)
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest))
    status, rows, said, errors = _predict(finished[0], tmp_path / "other.csv", data_dir=tmp_path / "other")
    assert status == 0, errors
    assert {row["label"] for row in rows} == {""}
    assert "label readmission" in said


def test_stays_that_cannot_be_predicted_have_a_row_with_a_reason(finished, unlabelled, tmp_path):
    files = sorted((unlabelled / "patient_ehr" / "test").iterdir())
    pd.read_parquet(files[0]).iloc[:0].to_parquet(files[0])  # no events
    pd.read_parquet(files[1]).assign(value=math.nan).to_parquet(files[1])  # a fault
    given = {"data_dir": unlabelled, "split": "test"}
    assert _predict(finished[0], tmp_path / "refused.csv", **given)[0] == 2  # as ever, without --skip_bad
    status, rows, said, errors = _predict(finished[0], tmp_path / "new.csv", skip_bad="true", **given)
    assert status == 0, errors
    assert len(rows) == 20
    assert "No prediction for 2 of 20 stays" in said
    without = {row["stay_id"]: row for row in rows if row["reason"]}
    assert set(without) == {_stay(files[0]), _stay(files[1])}
    empty = without[_stay(files[0])]
    assert empty["reason"] == "the stay has no rows"
    assert (empty["split"], empty["logit"], empty["probability"], empty["calibrated_probability"]) == (
        "test",
        "",
        "",
        "",
    )
    assert "not a finite number" in without[_stay(files[1])]["reason"]


# ------------------------------------------------------------------ data that differ


def _rename(folder: Path, names: dict[str, str], only: Path | None = None) -> None:
    def change(rows: pd.DataFrame, file: Path) -> pd.DataFrame:
        return rows if only is not None and file != only else rows.assign(variable=rows["variable"].replace(names))

    _change(folder, change)


@pytest.fixture(params=["given", "generated"])
def either(request: pytest.FixtureRequest, finished: tuple[Path, str]) -> Path:
    """A run with a vector for each training variable alone, and one with vectors made from names."""
    return finished[0] if request.param == "given" else request.getfixturevalue("generated")


def test_unknown_variables_are_a_warning_with_its_own_exit_status(either, unlabelled, tmp_path):
    _rename(unlabelled, {"heart rate": "HR"})
    status, rows, said, errors = _predict(either, tmp_path / "new.csv", data_dir=unlabelled)
    assert status == 3, errors
    assert len(rows) == 20
    assert "of the events are of 1 variable that the training data did not have: 'HR'" in said
    assert "(exit status 3)" in said


def test_a_stay_of_unknown_variables_alone_has_no_prediction(either, unlabelled, tmp_path):
    (first, *_) = sorted((unlabelled / "patient_ehr" / "test").iterdir())
    names = set(pd.read_parquet(first)["variable"])
    _rename(unlabelled, {name: f"{name} (new)" for name in names}, only=first)
    _, rows, _, errors = _predict(either, tmp_path / "new.csv", data_dir=unlabelled)
    (row,) = [row for row in rows if row["reason"]]
    assert len(rows) == 20
    assert row["stay_id"] == _stay(first), errors
    assert row["reason"].startswith("none of its variables ")
    assert row["logit"] == ""


def test_a_variable_in_another_unit_is_named(finished, unlabelled, tmp_path):
    def to_fahrenheit(rows: pd.DataFrame, _: Path) -> pd.DataFrame:
        is_temperature = rows["variable"] == "temperature"
        return rows.assign(value=rows["value"].where(~is_temperature, rows["value"] * 1.8 + 32))

    _change(unlabelled, to_fahrenheit)
    status, _, said, _ = _predict(finished[0], tmp_path / "new.csv", data_dir=unlabelled)
    assert status == 3
    assert "The mean of 1 variable is far from that of training; another unit? 'temperature': mean" in said


def test_training_variables_that_are_missing_are_named(finished, unlabelled, tmp_path):
    _change(unlabelled, lambda rows, _: rows[rows["variable"] != "heart rate"])
    status, rows, said, _ = _predict(finished[0], tmp_path / "one.csv", data_dir=unlabelled)
    assert (status, len(rows)) == (3, 20)
    assert "1 variable of 12 of the training data, with " in said
    assert "'heart rate' (in 98% of the training stays" in said
    _change(unlabelled, lambda rows, _: rows[rows["variable"] == "temperature"])
    for file in sorted((unlabelled / "patient_ehr" / "test").iterdir())[1:]:
        file.unlink()  # a single stay is enough
    status, _, said, _ = _predict(finished[0], tmp_path / "most.csv", data_dir=unlabelled)
    assert status == 3
    assert "11 variables of 12 of the training data" in said


def test_an_older_checkpoint_says_what_it_cannot_compare(run, unlabelled, tmp_path):
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    del content["hyper_parameters"]["training_data"]
    torch.save(content, run / "checkpoints" / "best.ckpt")
    status, _, said, errors = _predict(run, tmp_path / "new.csv", data_dir=unlabelled)
    assert status == 0, errors
    assert "does not record how often each variable occurred in training" in said


def test_variables_without_an_embedding_are_left_out_and_counted(finished, unlabelled, tmp_path):
    """The predictions are those of the data without these rows; a stay that has no others has none."""
    (first, *_) = sorted((unlabelled / "patient_ehr" / "test").iterdir())
    names = set(pd.read_parquet(first)["variable"])
    _rename(unlabelled, {"heart rate": "HR"})
    _rename(unlabelled, {name: f"{name} (new)" for name in names}, only=first)
    status, rows, said, errors = _predict(finished[0], tmp_path / "new.csv", data_dir=unlabelled)
    assert status == 3, errors
    assert "events of variables without an embedding, left out: 'HR'" in said
    assert "variables that the training data did not have: 'HR'" in said
    (without,) = [row for row in rows if row["reason"]]
    assert without["stay_id"] == _stay(first)
    assert without["reason"] == "none of its variables has an embedding, so none occurred in the training data"

    (unlabelled / "patient_ehr" / "test" / first.name).unlink()
    _change(unlabelled, lambda rows, _: rows[rows["variable"] != "HR"])
    _, cleaned, _, _ = _predict(finished[0], tmp_path / "cleaned.csv", data_dir=unlabelled)
    assert [row for row in rows if not row["reason"]] == cleaned


def test_training_on_variables_without_an_embedding_is_still_an_error(pretrained, old_layout, tmp_path):
    shutil.copytree(old_layout.parent, tmp_path / "processed")
    lines = (tmp_path / "processed" / "cached.csv").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith("heart rate,")]
    (tmp_path / "processed" / "cached.csv").write_text("\n".join(kept) + "\n", encoding="utf-8")
    errors = refused(finetune(pretrained, tmp_path / "processed", tmp_path))
    assert "cached.csv has no embedding for 1 of 12 variables:\n  'heart rate'" in errors


@pytest.fixture(scope="module")
def generated(old_layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose embeddings are made from names, so that unknown variables have one too."""
    root = tmp_path_factory.mktemp("generated")
    shutil.copytree(old_layout.parent, root / "processed")
    (root / "processed" / "cached.csv").unlink()
    flags = {"from_random_weights": "true", "preset": "small", "max_epochs": 1, "unfreeze_after": 0}
    succeeded(command("finetune", data_dir=root / "processed", output_root_dir=root, **flags))
    return run_of(root)


# ------------------------------------------------------------------ MEDS, every set


def test_the_meds_schema_is_that_of_meds_evaluation(finished, compiled, tmp_path):
    _, rows, _, _ = _predict(finished[0], tmp_path / "test.csv", split="test")
    status, _, said, errors = _predict(finished[0], tmp_path / "meds.parquet", split="test", schema="meds")
    assert status == 0, errors
    table = pq.read_table(tmp_path / "meds.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "subject_id": "int64",
        "prediction_time": "timestamp[us]",
        "boolean_value": "bool",
        "predicted_boolean_value": "bool",
        "predicted_boolean_probability": "double",
    }
    split = compiled.split("test")
    last = split.minute[split.stay_offset[1:] - 1]
    assert table["subject_id"].to_pylist() == split.stay_id.tolist()
    times = [(time - datetime(1970, 1, 1)).total_seconds() / 60 for time in table["prediction_time"].to_pylist()]
    assert times == pytest.approx(last.tolist())
    assert table["boolean_value"].to_pylist() == [label == 1 for label in split.label]
    probability = [float(row["calibrated_probability"]) for row in rows]
    assert table["predicted_boolean_probability"].to_pylist() == probability
    threshold = pd.read_json(finished[0] / "calibration.json", typ="series")["threshold"]
    assert table["predicted_boolean_value"].to_pylist() == [each >= threshold for each in probability]
    assert "the probability is calibrated" in said


def test_the_meds_schema_leaves_out_stays_without_a_prediction(finished, unlabelled, tmp_path):
    (first, *_) = sorted((unlabelled / "patient_ehr" / "test").iterdir())
    pd.read_parquet(first).iloc[:0].to_parquet(first)
    _predict(finished[0], tmp_path / "meds.parquet", data_dir=unlabelled, schema="meds")
    table = pq.read_table(tmp_path / "meds.parquet")
    assert len(table) == 19
    assert table["boolean_value"].null_count == 19


def test_the_risk_after_a_set_is_that_of_the_stay_cut_off_after_it(finished, compiled, tmp_path):
    flags = {"split": "test", "precision": "64-true", "batch_size": 7}
    status, rows, said, errors = _predict(finished[0], tmp_path / "sets.csv", every_set="true", **flags)
    assert status == 0, errors
    assert "the head was trained on whole stays only" in said
    split, change = compiled.split("test"), compiled.variables.z_scores
    assert list(rows[0]) == ["stay_id", "set_index", "minute", "logit", "probability", "calibrated_probability"]
    assert [float(row["minute"]) for row in rows] == split.minute.tolist()
    assert [int(row["stay_id"]) for row in rows] == np.repeat(split.stay_id, np.diff(split.stay_offset)).tolist()
    model = load_finetuned(finished[0] / "checkpoints" / "best.ckpt", torch.float64).model
    table = torch.from_numpy(compiled.embeddings.copy())
    fitted = json.loads((finished[0] / "calibration.json").read_text(encoding="utf-8"))
    for stay in (0, 7, 19):
        of_stay = rows[split.stay_offset[stay] : split.stay_offset[stay + 1]]
        for n_sets, row in enumerate(of_stay, start=1):
            with torch.no_grad():
                alone = collate(cut_after(split, stay, n_sets), np.array([0]), dtype=np.float64, change=change)
                cut = model(alone, table)
            assert int(row["set_index"]) == n_sets - 1
            assert float(row["logit"]) == pytest.approx(cut.diff(dim=1).item(), abs=1e-12)
            assert float(row["probability"]) == pytest.approx(cut.softmax(1)[0, 1].item(), abs=1e-12)
            calibrated = fitted["slope"] * cut.diff(dim=1).item() + fitted["intercept"]
            assert float(row["calibrated_probability"]) == pytest.approx(1 / (1 + np.exp(-calibrated)), abs=1e-12)


def test_too_few_stays_for_means_and_lengths_are_said(finished, unlabelled, tmp_path):
    status, rows, said, _ = _predict(finished[0], tmp_path / "many.csv", data_dir=unlabelled)
    assert status == 0
    assert "Too few stays" not in said
    for file in sorted((unlabelled / "patient_ehr" / "test").iterdir())[9:]:
        file.unlink()
    status, rows, said, _ = _predict(finished[0], tmp_path / "few.csv", data_dir=unlabelled, split="test")
    assert (status, len(rows)) == (0, 9)
    assert "Too few stays to compare their means and lengths with training (9; 10 are needed)" in said


def test_the_risk_after_a_set_of_a_shortened_stay_is_that_of_the_last_sets_before_it(pretrained, compiled, tmp_path):
    assert finetune(pretrained, compiled.path, tmp_path, max_sets=3, max_epochs=1)[0] == 0
    flags = {"split": "test", "precision": "64-true", "every_set": "true"}
    status, rows, _, errors = _predict(run_of(tmp_path), tmp_path / "sets.csv", **flags)
    assert status == 0, errors
    split, change = compiled.split("test"), compiled.variables.z_scores
    model = load_finetuned(run_of(tmp_path) / "checkpoints" / "best.ckpt", torch.float64).model
    table = torch.from_numpy(compiled.embeddings.copy())
    for stay in (0, 19):
        of_stay = rows[split.stay_offset[stay] : split.stay_offset[stay + 1]]
        for n_sets, row in enumerate(of_stay, start=1):
            alone = collate(cut_after(split, stay, n_sets), np.array([0]), max_sets=3, dtype=np.float64, change=change)
            with torch.no_grad():
                assert float(row["logit"]) == pytest.approx(model(alone, table).diff(dim=1).item(), abs=1e-12)


def test_explained_stays_have_a_row_for_every_event_with_its_own_value(finished, compiled, old_layout, tmp_path):
    stay = int(compiled.split("test").stay_id[2])
    status, rows, said, errors = _predict(finished[0], tmp_path / "why.csv", explain=stay)
    assert status == 0, errors
    assert list(rows[0]) == ["stay_id", "minute", "variable", "summary", "value", "level", "contribution"]
    assert (rows[0]["variable"], {row["stay_id"] for row in rows}) == ("(base)", {str(stay)})
    (file,) = (old_layout / "test").glob(f"{stay}.*")
    original = pd.read_parquet(file)
    found = sorted((row["variable"], float(row["value"])) for row in rows[1:])
    expected = sorted(zip(original["variable"], original["value"], strict=True))
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-4)
    (line,) = [line.split() for line in said.splitlines() if line.split()[:1] == [str(stay)]]
    score, base, gap = map(float, line[1:4])
    assert base == pytest.approx(float(rows[0]["contribution"]), abs=1e-3)
    assert sum(float(row["contribution"]) for row in rows) == pytest.approx(score, abs=gap + 1e-3)
    assert gap < 0.02


def test_reasons_are_columns_in_words_beside_the_same_predictions(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(explain, "STEPS", 16)
    _, without, _, _ = _predict(finished[0], tmp_path / "without.csv", split="test")
    status, rows, said, errors = _predict(finished[0], tmp_path / "with.csv", split="test", reasons=2)
    assert status == 0, errors
    assert "nothing about causes" in said
    assert list(rows[0]) == [*COLUMNS, "contribution_1", "contribution_2"]
    assert [{name: row[name] for name in COLUMNS} for row in rows] == without
    for row in rows:
        first, second = (float(row[f"contribution_{place}"].rpartition(": ")[2]) for place in (1, 2))
        assert abs(first) >= abs(second) > 0


def test_a_stay_that_is_not_there_cannot_be_explained(finished, tmp_path):
    status, _, errors = call([*argv(mode="predict", ckpt=finished[0], output=tmp_path / "why.csv"), "--explain"])
    assert (status, "explain: received no stay; allowed: ids of stays" in errors) == (2, True)
    status, _, _, errors = _predict(finished[0], tmp_path / "why.csv", explain=5)
    assert status == 2
    assert "explain: received 5" in errors


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("there.csv", {}, "which already exists; allowed: a new file"),
        ("new.txt", {}, "allowed: a file name that ends in .csv or .parquet"),
        ("nowhere/new.csv", {}, "allowed: a file in an existing folder"),
        ("new.csv", {"schema": "meds"}, "allowed: a file name that ends in .parquet"),
        ("new.parquet", {"schema": "meds", "every_set": "true"}, "every_set: received together with --schema meds"),
        ("new.csv", {"explain": "1", "every_set": "true"}, "explain: received together with --every_set"),
        ("new.csv", {"reasons": "3", "every_set": "true"}, "reasons: received together with --every_set"),
        ("new.csv", {"reasons": "-1"}, "reasons: received '-1'; allowed: an integer of at least 0 and at most 20"),
        ("new.csv", {"split": "all"}, "split: received 'all'; allowed: one of train, valid, test"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_read(finished, tmp_path, name, flags, message):
    (tmp_path / "there.csv").write_text("mine")
    assert message in refused(command("predict", ckpt=finished[0], output=tmp_path / name, **flags))
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]


def test_a_named_calibration_is_applied_and_said(run, compiled, tmp_path):
    """`--calibration NAME`: other calibrated probabilities, the name in the file; another name lists these."""
    best = run / "checkpoints" / "best.ckpt"
    original = read_calibration(best)[0]
    anew = Recalibrated("ours", "intercept", "data", 0.3, 0)
    assert isinstance(original, Calibration)
    write_calibration(replace(original, slope=0.5, intercept=1.0, recalibrated=anew), best)
    flags = {"ckpt": run, "data_dir": compiled.path}
    said = succeeded(command("predict", **flags, output=tmp_path / "ours.csv", calibration="ours"))
    succeeded(command("predict", **flags, output=tmp_path / "theirs.csv"))
    assert "Calibration 'ours' fitted anew (intercept)" in said
    ours, theirs = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("ours", "theirs"))
    assert set(ours["calibration"]) == {"ours"}
    assert "calibration" not in theirs
    assert np.allclose(ours["calibrated_probability"], expit(0.5 * ours["logit"] + 1.0))
    assert np.array_equal(ours["logit"], theirs["logit"])
    errors = refused(command("predict", **flags, output=tmp_path / "x.csv", calibration="our"))
    assert "calibration: received 'our'; names beside" in errors
    assert "best.ckpt: ours." in errors
    assert not (tmp_path / "x.csv").exists()
