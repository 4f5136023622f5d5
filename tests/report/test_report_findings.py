"""What a report tells its reader to distrust."""

import json
from pathlib import Path
from typing import Any

import pytest

from seqsetvae.report.page import findings_of_run
from seqsetvae.report.run_files import read_run
from seqsetvae.system.errors import LEVELS
from tests.report.example import NASTY, estimate


def _change(folder: Path, name: str, **changes: Any) -> Path:
    """Other values in a JSON file of a run folder."""
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    return folder


def _texts(folder: Path, kind: str = "warning") -> str:
    return "\n".join(each.line() for each in findings_of_run(read_run(folder)) if each.level == kind)


def test_without_an_evaluation_the_validation_figures_are_optimistic_and_few_positives_are_said(finished):
    texts = _texts(finished[0])
    assert "val_auc is optimistic" in texts
    assert "positive stays in the validation split (fewer than 50)" in texts


def test_warnings_come_before_notes_and_no_text_comes_twice(example):
    found = findings_of_run(read_run(example))
    levels = [each.level for each in found]
    assert levels == sorted(levels, key=LEVELS.index)
    assert {"warning", "note"} <= set(levels)
    assert len({each.text for each in found}) == len(found)


def test_cautions_of_the_evaluation_and_advice_of_the_run_are_warnings(example):
    _change(example, "evaluation.json", cautions=["Only 9 of 60 stays are positive."])
    _change(example, "summary.json", advice=["Train longer."])
    texts = _texts(example)
    assert "Only 9 of 60 stays are positive." in texts
    assert "Train longer." in texts


def test_notices_of_the_data_are_notes(example):
    config = json.loads((example / "config.json").read_text())
    _change(example, "config.json", cohort=config["cohort"] | {"notices": ["3 faulty files left out"]})
    assert "Data: 3 faulty files left out." in _texts(example, "note")


def test_what_the_evaluation_found_is_taken_as_it_is_with_what_to_do(example):
    found = [{"level": "note", "text": "Odd.", "action": "Look."}, {"level": "warning", "text": "Bad."}]
    _change(example, "evaluation.json", findings=found, figures={"auroc": estimate(0.8, 0.3)})
    assert "Odd. Look." in _texts(example, "note")
    assert "Bad." in _texts(example)
    assert "Wide interval" not in _texts(example)  # else it had been found


def test_what_a_run_warned_of_is_a_warning_unless_its_advice_says_it_again(example):
    lines = ["RANDOM BACKBONE: all weights are randomly initialized", "lr should be lower", "lr should be lower"]
    (example / "warnings.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert _texts(example).count("lr should be lower") == 1
    assert "RANDOM BACKBONE: all" in _texts(example)
    _change(example, "summary.json", advice=["Random backbone: nothing was pretrained (--from_random_weights)."])
    assert "Random backbone: nothing" in _texts(example)
    assert "RANDOM BACKBONE" not in _texts(example)


def test_a_run_that_has_not_finished_is_a_warning(example):
    (example / "summary.json").unlink()
    assert "The run has not finished" in _texts(example)


@pytest.mark.parametrize(("half", "is_wide"), [(0.04, False), (0.06, True)])
def test_a_wide_interval_is_a_warning(example, half, is_wide):
    _change(example, "evaluation.json", figures={"auroc": estimate(0.8, half)})
    assert ("Wide interval: the 95 % interval of the AUROC is" in _texts(example)) == is_wide


@pytest.mark.parametrize(("slope", "text"), [(0.6, "too extreme"), (1.4, "too close to the mean"), (1.05, None)])
def test_a_calibration_slope_that_excludes_one_is_a_note(example, slope, text):
    _change(example, "evaluation.json", figures={"calibration_slope": estimate(slope, 0.2)})
    notes = _texts(example, "note")
    assert (text or "calibration slope") in notes if text else "calibration slope" not in notes


def test_a_subgroup_whose_interval_is_below_the_whole_is_a_note(example):
    assert f"age = {NASTY}: AUROC 0.500 (0.490 to 0.510), 6 positives of 30 stays." in _texts(example, "note")
