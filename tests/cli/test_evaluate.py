"""--mode evaluate: the metrics of the run, on its data or others, and what it refuses."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from seqsetvae.batches.loading import collate
from seqsetvae.checkpoint.finetuned import load_finetuned
from seqsetvae.cohort import Split
from seqsetvae.tasks.decisions import Need, conformal_bounds, threshold_logit
from seqsetvae.tasks.scores import BINARY_METRICS, platt_scaling
from tests.cli.labels import changed_labels
from tests.command import call, command, finetune, refused, rows_of, run_of, succeeded
from tests.figures import printed_figure
from tests.prefixes import cut_after
from tests.tiny import tiny_backbone, write_checkpoint


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_evaluate_gives_the_best_val_auc_for_any_batch_size(finished, compiled, batch_size, tmp_path):
    run, _ = finished
    status, said, _ = command(
        "evaluate", ckpt=run, split="valid", batch_size=batch_size, output_root_dir=run.parent, output=tmp_path
    )
    best = max(rows_of(run), key=lambda row: float(row["val_auc"]))
    assert status == 0
    assert printed_figure(said, "AUROC") == f"{float(best['val_auc']):.4f}"
    assert printed_figure(said, "AUPRC") == f"{float(best['val_auprc']):.4f}"
    assert "split valid: 20 stays" in said
    figures = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))["figures"]
    with (tmp_path / "predictions.csv").open(encoding="utf-8") as file:
        label, logit = np.array([(row["label"], row["logit"]) for row in csv.DictReader(file)], dtype=float).T
    assert figures["auroc"]["value"] == pytest.approx(roc_auc_score(label, logit), abs=1e-6)
    assert float(best["val_auc"]) == pytest.approx(roc_auc_score(label, logit), abs=1e-6)


def test_evaluate_shortens_stays_as_the_run_did(pretrained, compiled, tmp_path):
    assert finetune(pretrained, compiled.path, tmp_path, max_sets=3, max_epochs=1)[0] == 0
    run = run_of(tmp_path)
    _, said, _ = command("evaluate", ckpt=run, split="valid")
    assert "Stays shortened to their last 3 sets" in said
    assert printed_figure(said, "AUROC") == f"{float(rows_of(run)[0]['val_auc']):.4f}"
    assert "max_sets: received 4" in refused(command("evaluate", ckpt=run, split="valid", max_sets=4))


def test_evaluate_uses_the_label_of_the_run(pretrained, old_layout, tmp_path):
    """A second label in oc.csv: evaluating on the old layout takes the run's, and another one is refused."""
    processed = tmp_path / "processed"
    shutil.copytree(old_layout.parent, processed)
    with (processed / "oc.csv").open(newline="") as file:
        rows = [(row["ts_id"], row["in_hospital_mortality"]) for row in csv.DictReader(file)]
    lines = ["ts_id,in_hospital_mortality,survived", *(f"{stay},{died},{1 - int(died)}" for stay, died in rows)]
    (processed / "oc.csv").write_text("\n".join(lines) + "\n")
    succeeded(finetune(pretrained, processed, tmp_path / "runs", label_name="survived"))
    run = next((tmp_path / "runs").glob("finetune-*"))
    flags = {"ckpt": run, "split": "valid", "data_dir": processed, "output_root_dir": tmp_path / "runs"}
    printed = succeeded(command("evaluate", **flags))
    best = json.loads((run / "summary.json").read_text())["best"]["val_auc"]
    assert printed_figure(printed, "AUROC") == f"{best:.4f}"
    errors = refused(command("evaluate", **flags, label_name="in_hospital_mortality"))
    assert "was trained to predict 'survived'" in errors


def test_nan_scores_are_never_ranked(finished, tmp_path):
    content = torch.load(finished[0] / "checkpoints" / "best.ckpt", weights_only=True)
    content["state_dict"]["head.net.0.weight"].fill_(float("nan"))
    torch.save(content, tmp_path / "broken.ckpt")
    data = json.loads((finished[0] / "config.json").read_text(encoding="utf-8"))["cohort"]["path"]
    status, said, errors = command("evaluate", ckpt=tmp_path / "broken.ckpt", split="valid", data_dir=data)
    assert status == 1
    assert "NaN or infinite for stay" in errors
    assert "AUROC" not in said


def test_other_statistics_than_those_of_training_are_an_error(finished, old_layout, tmp_path):
    """Evaluating on data with another stats.csv names the variables that mean something else there."""
    stats = (old_layout.parent / "stats.csv").read_text(encoding="utf-8").splitlines()
    changed = [line if not line.startswith("lactate,") else "lactate,2.5,0.8" for line in stats]
    (tmp_path / "stats.csv").write_text("\n".join(changed) + "\n", encoding="utf-8")
    errors = refused(
        command(
            "evaluate",
            ckpt=finished[0],
            split="valid",
            data_dir=old_layout,
            params_map_path=tmp_path / "stats.csv",
            output_root_dir=tmp_path,
        )
    )
    assert "was trained with another mean, std or embedding of 1 variable: lactate." in errors


def test_a_pretrained_checkpoint_cannot_be_evaluated(pretrained, compiled):
    errors = refused(command("evaluate", ckpt=pretrained, split="valid", data_dir=compiled.path))
    assert "not a checkpoint of a fine-tuning run" in errors


def test_the_head_of_the_old_scripts_is_not_evaluated(compiled, tmp_path):
    old = write_checkpoint(tmp_path / "old.ckpt", tiny_backbone(), "fine-tuned legacy")
    for mode, flags in (("evaluate", {"split": "valid"}), ("predict", {"output": tmp_path / "risks.csv"})):
        errors = refused(command(mode, ckpt=old, data_dir=compiled.path, **flags))
        assert "The old head (cls_head, feature_fusion, ...) is not built here" in errors
        assert "Use the original pretrained checkpoint instead." in errors


def test_a_folder_that_is_not_a_run_folder_is_an_error(tmp_path):
    assert "best.ckpt" in refused(command("evaluate", ckpt=tmp_path, split="valid"))


def test_a_checkpoint_without_its_run_needs_data_dir(finished, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(finished[0] / "checkpoints" / "best.ckpt", tmp_path / "checkpoints")
    assert "pass --data_dir" in refused(command("evaluate", ckpt=tmp_path, split="valid"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json: damaged, it is not JSON"),
        ("[]", "config.json: damaged, it holds a list and not an object"),
        ("{}", "config.json: does not record the data of the run; pass --data_dir"),
        ('{"cohort": 3}', "config.json: does not record the data"),
        ('{"cohort": {"path": 3}}', "config.json: does not record the data"),
        (b"\xff", "config.json: damaged, it is not JSON"),
    ],
)
def test_a_config_json_that_cannot_be_used_is_one_error(run, tmp_path, text, message):
    (run / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    errors = refused(command("evaluate", ckpt=run, split="test", output_root_dir=tmp_path))
    assert message in errors
    assert errors.count("\n") == 1


# ------------------------------------------------------------------ what is written


def _evaluate(run: Path, output: Path, **flags: object) -> tuple[dict, list[dict[str, str]], str]:
    """(evaluation.json, rows of predictions.csv, what was printed)."""
    said = succeeded(
        command("evaluate", **{"ckpt": run, "split": "test", "output": output, "output_root_dir": run.parent, **flags})
    )
    with (output / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return json.loads((output / "evaluation.json").read_text(encoding="utf-8")), rows, said


def test_evaluation_json_has_its_schema_and_agrees_with_predictions_csv(finished, compiled, tmp_path):
    content, rows, said = _evaluate(finished[0], tmp_path / "new folder")
    split = compiled.split("test")
    assert [int(row["stay_id"]) for row in rows] == split.stay_id.tolist()
    assert [int(row["label"]) for row in rows] == split.label.tolist()
    label, logit = split.label, [float(row["logit"]) for row in rows]
    probability = [float(row["calibrated_probability"]) for row in rows]
    calibration = json.loads((finished[0] / "calibration.json").read_text(encoding="utf-8"))
    flagged = np.array(logit) >= calibration["threshold_logit"]
    assert np.array_equal(flagged, np.array(probability) >= calibration["threshold"])
    assert content.keys() == {
        *("verdict", "task", "checkpoint", "split", "stays", "labels", "positives", "prevalence", "label_name"),
        *(
            "threshold",
            "primary",
            "figures",
            "decision",
            "baselines",
            "members",
            "subgroups",
            "subgroup_columns",
            "landmarks",
        ),
        *("resampled", "patients", "findings", "curves"),
    }
    assert content["checkpoint"] == f"{finished[0].name}/checkpoints/best.ckpt"
    assert (content["split"], content["label_name"]) == ("test", "in_hospital_mortality")
    assert (content["stays"], content["positives"]) == (len(label), label.sum())
    assert content["prevalence"] == label.mean()
    assert content["threshold"] == calibration["threshold"]
    figures = content["figures"]
    assert list(figures) == list(BINARY_METRICS)
    assert figures["auroc"]["value"] == pytest.approx(roc_auc_score(label, logit))
    assert figures["auprc"]["value"] == pytest.approx(average_precision_score(label, logit))
    assert figures["brier"]["value"] == pytest.approx(brier_score_loss(label, probability))
    assert figures["sensitivity"]["value"] == pytest.approx(flagged[label == 1].mean())
    assert figures["specificity"]["value"] == pytest.approx((~flagged)[label == 0].mean())
    known = {name: each for name, each in figures.items() if each["low"] is not None}
    assert figures.keys() - known.keys() <= {
        "calibration_slope",
        "calibration_intercept",
    }  # a resample may be separated
    assert all(each["low"] <= each["value"] <= each["high"] for each in known.values())
    assert [content[key] for key in ("baselines", "members", "subgroups", "landmarks")] == [{}, {}, [], []]
    assert (
        f"Few data: {len(label)} labelled stays, {label.sum()} of the smallest class. With fewer than 200"
        in " ".join(each["text"] for each in content["findings"])
    )
    assert all(each["text"] in said for each in content["findings"] if each["level"] == "warning")


def test_intervals_are_over_the_patients_of_the_cohort(finished, tmp_path, monkeypatch):
    over_stays, _, said = _evaluate(finished[0], tmp_path / "stays", landmarks=6)
    assert (over_stays["resampled"], over_stays["patients"]) == ("stays", over_stays["stays"])
    assert "95 % interval (over stays)" in said
    monkeypatch.setattr(Split, "subjects_of", lambda self, stays: stays // 3)
    over_patients, rows, said = _evaluate(finished[0], tmp_path / "patients", landmarks=6)
    patients = len({int(row["stay_id"]) // 3 for row in rows})
    assert (over_patients["resampled"], over_patients["patients"]) == ("patients", patients)
    assert f"{len(rows)} stays of {patients} patients" in said
    for before, after in (
        (over_stays["figures"], over_patients["figures"]),
        (over_stays["landmarks"][0]["figures"], over_patients["landmarks"][0]["figures"]),
    ):
        assert before["auroc"]["value"] == after["auroc"]["value"]
        assert before["auroc"] != after["auroc"]


def test_the_same_evaluation_has_the_same_intervals_for_any_batch_size(finished, tmp_path):
    one, _, _ = _evaluate(finished[0], tmp_path / "1", batch_size=1)
    all_at_once, _, _ = _evaluate(finished[0], tmp_path / "2", batch_size=100)
    for name, figure in one["figures"].items():
        assert figure == pytest.approx(all_at_once["figures"][name], abs=1e-3), name


def test_an_older_evaluation_is_kept_beside_the_new_one(finished, tmp_path):
    first, _, _ = _evaluate(finished[0], tmp_path, split="test")
    _evaluate(finished[0], tmp_path, split="test")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json", "predictions.csv"]
    second, _, said = _evaluate(finished[0], tmp_path, split="valid")
    assert second["split"] == "valid"
    (older,) = tmp_path.glob("evaluation-*.json")
    assert json.loads(older.read_text(encoding="utf-8")) == first
    assert f"the older one is now {older.name}" in said
    assert len(list(tmp_path.glob("predictions-*.csv"))) == 1


def test_predictions_may_be_parquet_and_an_older_csv_is_then_kept_under_another_name(finished, tmp_path):
    _, rows, _ = _evaluate(finished[0], tmp_path)
    flags = {"split": "test", "output": tmp_path, "output_root_dir": tmp_path, "format": "parquet"}
    said = succeeded(command("evaluate", ckpt=finished[0], **flags))
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert table["logit"].to_pylist() == [float(row["logit"]) for row in rows]
    assert not (tmp_path / "predictions.csv").exists()
    (older,) = tmp_path.glob("predictions-*.csv")
    assert f"The older predictions.csv is now {older.name}" in said


def test_without_output_the_results_are_in_the_run_folder(run, tmp_path):
    said = succeeded(command("evaluate", ckpt=run, split="test", output_root_dir=tmp_path))
    assert f"Wrote {run / 'evaluation.json'}" in said
    assert (run / "predictions.csv").is_file()


def test_a_checkpoint_alone_is_evaluated_without_writing(finished, compiled, tmp_path):
    shutil.copy(finished[0] / "checkpoints" / "best.ckpt", tmp_path)
    flags = {"ckpt": tmp_path / "best.ckpt", "split": "test", "data_dir": compiled.path}
    said = succeeded(command("evaluate", **flags))
    assert "Nothing was written" in said
    assert "There is no calibration and no threshold for this checkpoint" in said
    assert printed_figure(said, "sensitivity") == "-"
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]
    shutil.copy(finished[0] / "calibration.json", tmp_path)  # beside it, it is found
    assert "Calibration fitted on the valid split (20 stays" in command("evaluate", **flags)[1]


def test_stays_without_a_label_are_left_out_and_counted(finished, old_layout, compiled, tmp_path):
    gone = set(compiled.split("test").stay_id[:3].tolist())
    labels = changed_labels(old_layout, tmp_path / "oc.csv", lambda stay, label: None if stay in gone else label)
    everything, all_rows, _ = _evaluate(finished[0], tmp_path / "all")
    content, rows, _ = _evaluate(finished[0], tmp_path / "some", data_dir=old_layout, label_path=labels)
    assert content["stays"] == everything["stays"] - 3
    assert "Of 20 stays, 3 have no label; they are left out." in [each["text"] for each in content["findings"]]
    assert [row["logit"] for row in rows] == [row["logit"] for row in all_rows]  # to the last bit
    assert [row["label"] for row in rows[:4]] == ["", "", "", all_rows[3]["label"]]


# ------------------------------------------------------------------ calibration


def test_a_run_without_a_calibration_gets_one_from_its_validation_split(run, tmp_path):
    of_finetune = json.loads((run / "calibration.json").read_text(encoding="utf-8"))
    (run / "calibration.json").unlink()
    content, _, said = _evaluate(run, tmp_path / "out")
    assert "Calibration fitted on the valid split (20 stays" in said
    written = json.loads((run / "calibration.json").read_text(encoding="utf-8"))
    assert written["threshold_logit"] == pytest.approx(of_finetune["threshold_logit"], abs=1e-5)
    assert written["slope"] == pytest.approx(of_finetune["slope"], rel=1e-3)
    assert written["checkpoint_sha256"] == of_finetune["checkpoint_sha256"]
    assert content["threshold"] == written["threshold"]


@pytest.mark.parametrize("unfreeze_after", [0, "none"])  # best.ckpt of stage 2, and of cached features
def test_fine_tuning_calibrates_best_ckpt_on_its_own_validation_predictions(
    pretrained, compiled, tmp_path, unfreeze_after
):
    assert finetune(pretrained, compiled.path, tmp_path, unfreeze_after=unfreeze_after)[0] == 0
    content, rows, _ = _evaluate(run_of(tmp_path), tmp_path / "out", split="valid")
    label, logit = (np.array([float(row[name]) for row in rows]) for name in ("label", "logit"))
    written = json.loads((run_of(tmp_path) / "calibration.json").read_text(encoding="utf-8"))
    assert (written["slope"], written["intercept"]) == pytest.approx(platt_scaling(label, logit), rel=1e-3)
    assert written["threshold_logit"] == pytest.approx(threshold_logit(Need(), label, logit, None), abs=1e-5)
    best = max(float(row["val_auc"]) for row in rows_of(run_of(tmp_path)))
    assert content["figures"]["auroc"]["value"] == pytest.approx(best, abs=1e-6)


def test_the_calibration_of_another_checkpoint_is_neither_used_nor_replaced(finished, tmp_path):
    before = (finished[0] / "calibration.json").read_bytes()
    content, _, _ = _evaluate(finished[0] / "checkpoints" / "last.ckpt", tmp_path)
    assert content["threshold"] != json.loads(before)["threshold"]
    assert (finished[0] / "calibration.json").read_bytes() == before


def test_figures_on_the_stays_that_fitted_the_calibration_carry_a_caution(finished, tmp_path):
    content, _, _ = _evaluate(finished[0], tmp_path, split="valid")
    assert any(
        "Calibration and threshold were fitted on these stays" in caution
        for caution in [each["text"] for each in content["findings"]]
    )
    assert any(
        "The validation split chose the checkpoint" in caution
        for caution in [each["text"] for each in content["findings"]]
    )


# ------------------------------------------------------------------ decisions


def test_a_threshold_and_a_band_are_chosen_on_validation_and_kept_for_predict(run, tmp_path):
    before = (run / "calibration.json").read_bytes()
    flags = {"threshold_for": "sensitivity=0.75", "admissions_per_day": 12, "abstain": 0.25}
    content, rows, said = _evaluate(run, tmp_path / "test", **flags)
    valid, of_valid, _ = _evaluate(run, tmp_path / "valid", split="valid")  # without the flags: from calibration.json
    label, logit = (np.array([float(row[name]) for row in of_valid]) for name in ("label", "logit"))
    written = json.loads((run / "calibration.json").read_text(encoding="utf-8"))
    threshold = threshold_logit(Need("sensitivity", 0.75), label, logit, None)
    assert written["threshold_logit"] == pytest.approx(threshold, abs=1e-5)
    bounds = conformal_bounds(label, logit, 0.25)
    assert (written["conformal_low"], written["conformal_high"]) == pytest.approx(bounds, abs=1e-5)
    assert valid["figures"]["sensitivity"]["value"] >= 0.75
    assert [each.read_bytes() for each in run.glob("calibration-*.json")] == [before]
    assert content["threshold"] == valid["threshold"] == written["threshold"]
    assert content["decision"]["words"] == "highest threshold with a sensitivity of at least 0.75"
    alarms = 12 * content["figures"]["alarms"]["value"] / 100
    assert content["decision"]["figures"]["alarms a day"]["value"] == pytest.approx(alarms)
    found = [row["decision"] for row in rows]
    assert content["abstention"]["counts"] == {name: found.count(name) for name in ("0", "1", "undecided")}
    assert "chosen on the validation split: highest threshold with a sensitivity of at least 0.75." in said
    figures = content["abstention"]["figures"]
    assert figures["abstained"]["value"] == pytest.approx(found.count("undecided") / len(found))
    assert printed_figure(said, "coverage of label 0") == f"{figures['coverage of label 0']['value']:.4f}"
    succeeded(command("predict", ckpt=run, split="test", output=tmp_path / "risks.csv"))
    assert (tmp_path / "risks.csv").read_bytes() == (tmp_path / "test" / "predictions.csv").read_bytes()


def test_without_a_band_predictions_have_no_decision(finished, tmp_path):
    content, rows, _ = _evaluate(finished[0], tmp_path)
    assert "abstention" not in content
    assert "decision" not in rows[0]
    assert content["decision"]["threshold_for"] == "youden"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"abstain": 0.01}, "needs 99 validation stays of each class, and there are"),
        ({"threshold_for": "auroc=0.9"}, "allowed: youden, or one of sensitivity, specificity, ppv"),
        ({"threshold_for": "alarms_per_day=3"}, "needs --admissions_per_day"),
        ({"admissions_per_day": 3}, "needs --threshold_for"),
        ({"abstain": 0.1, "calibration": "ours"}, "allowed: with --split, without --calibration"),
        ({"threshold_for": "alarms_per_day=3", "admissions_per_day": 2}, "there are never more alarms"),
        ({"threshold_for": "alarms_per_day=3", "admissions_per_day": 3}, "there are never more alarms"),
        ({"threshold_for": "sensitivity=0.8", "label_path": "another"}, "which these data are not"),
    ],
)
def test_decisions_that_cannot_be_chosen_are_refused_and_nothing_changes(
    finished, old_layout, tmp_path, flags, message
):
    before = (finished[0] / "calibration.json").read_bytes()
    if "label_path" in flags:
        gone = changed_labels(old_layout, tmp_path / "oc.csv", lambda stay, label: label if stay % 7 else None)
        flags = flags | {"label_path": gone, "data_dir": old_layout}
    flags = {"split": "test", "output": tmp_path / "out", "output_root_dir": tmp_path, **flags}
    assert message in refused(command("evaluate", ckpt=finished[0], **flags))
    assert (finished[0] / "calibration.json").read_bytes() == before


# ------------------------------------------------------------------ comparisons, subgroups, landmarks


def test_several_checkpoints_are_compared_on_the_same_stays(finished, tmp_path):
    last = finished[0] / "checkpoints" / "last.ckpt"
    one, _, _ = _evaluate(finished[0], tmp_path / "1")
    other, _, _ = _evaluate(last, tmp_path / "2")
    words = ["--mode", "evaluate", "--ckpt", str(finished[0]), str(last), "--split", "test", "--accelerator", "cpu"]
    said = succeeded(call([*words, "--output", str(tmp_path), "--output_root_dir", str(tmp_path)]))
    content = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert content["figures"] == one["figures"]
    compared = content["baselines"][f"{finished[0].name}/checkpoints/last.ckpt"]
    assert compared["figures"] == other["figures"]
    difference = one["figures"]["auroc"]["value"] - other["figures"]["auroc"]["value"]
    assert compared["difference"]["auroc"]["value"] == pytest.approx(difference)
    assert compared["difference"].keys() == {"auroc", "auprc"}
    assert f"compared with {finished[0].name}/checkpoints/last.ckpt" in said


def test_a_checkpoint_is_compared_with_others_only(finished, tmp_path):
    ckpt = finished[0] / "checkpoints" / "last.ckpt"
    words = ["--mode", "evaluate", "--ckpt", str(ckpt), str(ckpt.parent / ".." / "checkpoints" / "last.ckpt")]
    errors = refused(call([*words, "--split", "test", "--output", str(tmp_path / "out")]))
    assert "ckpt: received a checkpoint twice" in errors


def test_checkpoints_on_different_stays_are_not_compared(finished, pretrained, old_layout, compiled, tmp_path):
    gone = set(compiled.split("valid").stay_id[:1].tolist())
    labels = changed_labels(old_layout, tmp_path / "oc.csv", lambda stay, label: None if stay in gone else label)
    assert finetune(pretrained, old_layout, tmp_path, label_path=labels, max_epochs=1)[0] == 0
    words = ["--mode", "evaluate", "--accelerator", "cpu", "--ckpt", str(finished[0]), "--ckpt", str(run_of(tmp_path))]
    errors = refused(call([*words, "--split", "valid", "--output", str(tmp_path / "out")]))
    assert "are evaluated on different stays or labels (19 and 20 stays)" in errors


def test_subgroups_of_a_table_are_evaluated(finished, compiled, tmp_path):
    stays = compiled.split("test").stay_id
    lines = [f"{stay},{30 + 3 * i},{'female' if i % 2 else 'male'}" for i, stay in enumerate(stays)]
    (tmp_path / "groups.csv").write_text("\n".join(["stay_id,age,sex", *lines]) + "\n")
    flags = {"subgroups": tmp_path / "groups.csv"}
    content, rows, said = _evaluate(finished[0], tmp_path / "hidden", **flags)
    assert content["subgroups"] == []
    assert [len(each["hidden"]) for each in content["subgroup_columns"]] == [4, 2]
    assert "sex: female, male are hidden, because one has fewer than 10 stays, positives or negatives" in said
    content, rows, said = _evaluate(finished[0], tmp_path / "out", **flags, smallest_group=0)
    assert "sex: p of a difference between groups (Holm): auroc " in said
    groups = {(each["column"], each["group"]): each for each in content["subgroups"]}
    assert [group for column, group in groups if column == "sex"] == ["female", "male"]
    assert sum(each["stays"] for (column, _), each in groups.items() if column == "age") == 20
    women = rows[1::2]
    label = [int(row["label"]) for row in women]
    found = groups["sex", "female"]
    assert (found["stays"], found["positives"]) == (10, sum(label))
    expected = roc_auc_score(label, [float(row["logit"]) for row in women])
    assert found["figures"]["auroc"]["value"] == pytest.approx(expected)
    assert "sex female" in said


def test_landmarks_use_only_the_events_of_the_first_hours(finished, compiled, tmp_path):
    split, hours = compiled.split("test"), (2.0, 12.0)
    words = ["--mode", "evaluate", "--accelerator", "cpu", "--ckpt", str(finished[0]), "--split", "test"]
    said = succeeded(call([*words, "--landmarks", "2", "12", "--output", str(tmp_path)]))
    content = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    model = load_finetuned(finished[0] / "checkpoints" / "best.ckpt").model
    table = torch.from_numpy(compiled.embeddings.copy()).float()
    for hour, found in zip(hours, content["landmarks"], strict=True):
        label, logit = [], []
        for stay in range(split.n_stays):
            sets = slice(*split.stay_offset[stay : stay + 2])
            early = int((split.minute[sets] <= 60 * hour).sum())
            if early:
                with torch.no_grad():
                    alone = collate(cut_after(split, stay, early), np.array([0]), change=compiled.variables.z_scores)
                    margin = model(alone, table).diff(dim=1)
                logit.append(margin.item())
                label.append(int(split.label[stay]))
        assert (found["hours"], found["stays"], found["positives"]) == (hour, len(label), sum(label))
        assert found["figures"]["auroc"]["value"] == pytest.approx(roc_auc_score(label, logit), abs=1e-6)
    assert "  2 h" in said
