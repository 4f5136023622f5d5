"""What a report tells its reader to distrust, and the sentence about the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seqsetvae.evaluation.report.cautions import cautions_of, verdict
from seqsetvae.evaluation.report.evaluation_file import read_evaluation
from seqsetvae.evaluation.report.read import read_run
from tests.evaluation.report.example import NASTY, estimate


def _change(folder: Path, name: str, **changes: Any) -> Path:
    """Other values in a JSON file of a run folder."""
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    return folder


def _texts(folder: Path, kind: str = "warning") -> str:
    return "\n".join(each.text for each in cautions_of(read_run(folder)) if each.kind == kind)


def test_without_an_evaluation_the_validation_figures_are_optimistic_and_few_positives_are_said(
    finished: tuple[Path, str],
) -> None:
    texts = _texts(finished[0])
    assert "val_auc is optimistic" in texts
    assert "positive stays in the validation split (fewer than 50)" in texts


def test_warnings_come_before_notes_and_no_text_comes_twice(example: Path) -> None:
    found = cautions_of(read_run(example))
    kinds = [each.kind for each in found]
    assert kinds == sorted(kinds, reverse=True)  # "warning" before "note"
    assert len({each.text for each in found}) == len(found)


def test_cautions_of_the_evaluation_and_advice_of_the_run_are_warnings(example: Path) -> None:
    _change(example, "evaluation.json", cautions=["Only 9 of 60 stays are positive."])
    _change(example, "summary.json", advice=["Train longer."])
    texts = _texts(example)
    assert "Only 9 of 60 stays are positive." in texts
    assert "Train longer." in texts


def test_notices_of_the_data_and_other_warnings_of_the_log_are_notes(example: Path) -> None:
    config = json.loads((example / "config.json").read_text())
    _change(example, "config.json", cohort=config["cohort"] | {"notices": ["3 faulty files left out"]})
    (example / "train.log").write_text("⚠️  lr should be lower\n")
    notes = _texts(example, "note")
    assert "Data: 3 faulty files left out." in notes
    assert "lr should be lower" in notes


def test_a_warning_of_the_log_that_repeats_another_is_left_out(example: Path) -> None:
    _change(example, "summary.json", advice=["The best epoch is the last one (3 of 3), so train longer."])
    (example / "train.log").write_text("⚠️  The best epoch is the last one (3 of\n   3), so train longer.\n")
    assert "The best epoch" in _texts(example)
    assert "The best epoch" not in _texts(example, "note")


@pytest.mark.parametrize(
    ("settings", "config", "text"),
    [
        ({"from_random_weights": True}, {}, "Random backbone"),
        (
            {},
            {"partial_backbone": True, "pretrained": {"missing": ["a", "b"], "shape_mismatch": ["c"]}},
            "Partial backbone: 3 weights started random",
        ),
    ],
)
def test_a_backbone_that_was_not_pretrained_is_a_warning_before_the_summary_says_so(
    example: Path, settings: dict[str, Any], config: dict[str, Any], text: str
) -> None:
    (example / "summary.json").unlink()
    assert text not in _texts(example)
    before = json.loads((example / "config.json").read_text())["settings"]
    _change(example, "config.json", settings=before | settings, **config)
    assert text in _texts(example)


def test_a_run_that_has_not_finished_is_a_warning(example: Path) -> None:
    (example / "summary.json").unlink()
    assert "The run has not finished" in _texts(example)


@pytest.mark.parametrize(("half", "is_wide"), [(0.04, False), (0.06, True)])
def test_a_wide_interval_is_a_warning(example: Path, half: float, is_wide: bool) -> None:
    _change(example, "evaluation.json", figures={"auroc": estimate(0.8, half)})
    assert ("Wide interval: the 95 % interval of the AUROC is" in _texts(example)) == is_wide


@pytest.mark.parametrize(("slope", "text"), [(0.6, "too extreme"), (1.4, "too close to the mean"), (1.05, None)])
def test_a_calibration_slope_that_excludes_one_is_a_note(example: Path, slope: float, text: str | None) -> None:
    _change(example, "evaluation.json", figures={"calibration_slope": estimate(slope, 0.2)})
    notes = _texts(example, "note")
    assert (text or "calibration slope") in notes if text else "calibration slope" not in notes


def test_a_subgroup_whose_interval_is_below_the_whole_is_a_note(example: Path) -> None:
    assert f"age = {NASTY}: AUROC 0.500 (0.490 to 0.510), 6 positives of 30 stays." in _texts(example, "note")


def test_predictions_of_another_evaluation_are_a_warning(example: Path) -> None:
    text = "The predictions are not from the evaluation in evaluation.json"
    assert text not in _texts(example)
    lines = (example / "predictions.csv").read_text().splitlines()
    cells = lines[1].split(",")
    cells[4] = "0.999"  # another calibrated probability changes the Brier score alone
    (example / "predictions.csv").write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    assert text in _texts(example)
    (example / "predictions.csv").write_text("\n".join(lines[:-1]) + "\n")
    assert text in _texts(example)


def test_stays_without_prediction_or_label_are_notes(example: Path) -> None:
    with (example / "predictions.csv").open("a") as file:
        file.write("900,train,,,,1,no events\n901,train,0.1,0.5,0.5,,\n")
    notes = _texts(example, "note")
    assert "Not counted: 1 stay without a prediction (no events)." in notes
    assert "Not counted: 1 stay without a label." in notes


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        ({"auroc": estimate(-0.06, 0.02)}, "This model is worse than boosted_trees (AUROC 0.700 against 0.760"),
        ({"auroc": estimate(0.06, 0.02)}, "Better than the best baseline, Boosted trees"),
        ({"auroc": estimate(0.01, 0.02)}, "No clear difference to the best baseline, Boosted trees"),
        ({}, "The best baseline, Boosted trees, has AUROC 0.760 against 0.700."),
    ],
)
def test_the_result_is_compared_with_the_best_baseline(example: Path, difference: dict[str, Any], text: str) -> None:
    baselines = {
        "prevalence": {"figures": {"auroc": estimate(0.5)}, "difference": {"auroc": estimate(0.2, 0.01)}},
        "boosted_trees": {"figures": {"auroc": estimate(0.76)}, "difference": difference},
    }
    _change(example, "evaluation.json", figures={"auroc": estimate(0.7)}, baselines=baselines)
    assert text in verdict(read_evaluation(example / "evaluation.json"))


def test_without_baselines_the_result_cannot_be_judged(example: Path) -> None:
    _change(example, "evaluation.json", baselines={})
    assert "No baseline was evaluated" in verdict(read_evaluation(example / "evaluation.json"))
