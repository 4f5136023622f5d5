"""Calibration and threshold of a checkpoint: fitted, kept with its checksum, and applied only to it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from seqsetvae.evaluation.calibration import (
    CALIBRATION,
    calibrate,
    calibration_file,
    calibration_names,
    fit_calibration,
    read_calibration,
    write_calibration,
)
from seqsetvae.evaluation.predictions import Predictions
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import AlreadyThereError, file_sha256
from seqsetvae.tasks.binary import Calibration, decide
from seqsetvae.tasks.decisions import Need, need_of, threshold_logit
from seqsetvae.tasks.scores import platt_scaling
from seqsetvae.tasks.spec import Recalibrated, one_label


def _predictions(reverse: bool = False) -> Predictions:
    """Validation predictions of 100 labelled stays and one without a label."""
    rng = np.random.default_rng(0)
    label = np.append((rng.random(100) < 0.3).astype(np.int64), -1)
    logit = 2.0 * (label == 1) - 3 + rng.normal(size=101)
    output, target = (-logit if reverse else logit)[:, None], np.where(label < 0, np.nan, label)[:, None]
    return Predictions(spec=one_label(), split="valid", stay_id=np.arange(101), output=output, target=target)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    path.write_bytes(b"weights")
    return path


def test_what_is_written_is_read_back_for_its_checkpoint(checkpoint):
    calibration = calibrate(checkpoint, _predictions())
    assert calibration_file(checkpoint) == checkpoint.parents[1] / CALIBRATION
    found, line = read_calibration(checkpoint)
    assert found == calibration
    assert line == str(calibration)
    content = json.loads((checkpoint.parents[1] / CALIBRATION).read_text())
    assert content["checkpoint_sha256"] == file_sha256(checkpoint)
    assert (content["split"], content["stays"]) == ("valid", 100)
    assert content["method"].startswith("Platt scaling")
    assert content["threshold_rule"].startswith("highest Youden index")


def test_scaling_and_threshold_are_fitted_on_the_labelled_stays(checkpoint):
    predictions = _predictions()
    calibration = fit_calibration(checkpoint, predictions)
    label, logit = predictions.target[:100, 0].astype(int), predictions.output[:100, 0]
    assert (calibration.slope, calibration.intercept) == platt_scaling(label, logit)
    assert calibration.threshold_logit == threshold_logit(Need(), label, logit, None)
    assert isinstance(calibration, Calibration)
    calibrated = calibration.calibrated(logit)
    assert calibrated is not None
    assert np.array_equal(expit(calibrated) >= calibration.threshold, logit >= calibration.threshold_logit)
    assert not calibration_file(checkpoint).exists()


def test_a_checkpoint_that_changed_has_no_calibration(checkpoint):
    calibrate(checkpoint, _predictions())
    checkpoint.write_bytes(b"other weights")
    found, line = read_calibration(checkpoint)
    assert found is None
    assert "belongs to another checkpoint than best.ckpt" in line


def test_a_model_that_ranks_the_wrong_way_is_not_calibrated(checkpoint):
    calibration = calibrate(checkpoint, _predictions(reverse=True))
    assert isinstance(calibration, Calibration)
    assert (calibration.slope, calibration.intercept) == (None, None)
    assert not calibration.is_fitted
    assert calibration.calibrated(np.zeros(2)) is None
    assert read_calibration(checkpoint)[0] == calibration


def test_without_a_calibration_the_threshold_is_a_plain_probability():
    values = {"checkpoint_sha256": "", "split": "valid", "stays": 2, "positives": 1, "slope": None, "intercept": None}
    assert Calibration(**values, threshold_logit=0.0).threshold == 0.5  # type: ignore[arg-type]
    assert Calibration(**values, threshold_logit=None).threshold is None  # type: ignore[arg-type]


def test_a_threshold_probability_stays_when_probabilities_are_calibrated_anew(checkpoint):
    predictions = _predictions().labelled()
    fitted = decide(
        calibrate(checkpoint, predictions), predictions.output, predictions.target, need_of("net_benefit=0.2"), 0.2
    )
    anew = replace(fitted, slope=0.5, intercept=1.0, recalibrated=Recalibrated("other", "intercept", "", 0.5, 0))
    assert (fitted.threshold, anew.threshold) == pytest.approx((0.2, 0.2))
    assert anew.threshold_logit == pytest.approx((np.log(0.25) - 1) / 0.5)
    write_calibration(anew, checkpoint)
    assert read_calibration(checkpoint, name="other")[0] == anew


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"slope": "1"}', '{"slope": NaN}'])
def test_a_damaged_file_is_one_error(checkpoint, text):
    calibrate(checkpoint, _predictions())
    file = calibration_file(checkpoint)
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | json.loads(text)) if text.startswith('{"') else text)
    with pytest.raises(InputError, match=r"calibration.json: damaged"):
        read_calibration(checkpoint)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("threshold", lambda value: value + 0.01),
        ("threshold", lambda value: None),
        ("threshold", lambda value: "0.5"),
        ("slope", lambda value: 2 * value),
        ("slope", lambda value: -value),
        ("intercept", lambda value: value - 0.1),
        ("intercept", lambda value: None),
        ("threshold_logit", lambda value: value + 0.5),
        ("threshold_logit", lambda value: None),
        ("positives", lambda value: value + 1000),
        ("threshold_for", lambda value: "auroc=0.5"),
        ("abstain", lambda value: 0.1),
    ],
)
def test_numbers_that_contradict_each_other_are_one_error(checkpoint, name, change):
    calibrate(checkpoint, _predictions())
    file = calibration_file(checkpoint)
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {name: change(content[name])}))
    with pytest.raises(InputError, match=r"calibration.json: damaged .* Delete it; --mode evaluate then fits it again"):
        read_calibration(checkpoint)


def test_a_calibration_without_the_threshold_of_the_reader_is_read(checkpoint):
    """It is computed from the others; files of earlier versions may lack it."""
    calibration = calibrate(checkpoint, _predictions())
    file = calibration_file(checkpoint)
    content = json.loads(file.read_text())
    del content["threshold"]
    file.write_text(json.dumps(content))
    assert read_calibration(checkpoint)[0] == calibration


# ------------------------------------------------------------------ calibrations under a name

ANEW = Recalibrated("ours", "intercept", "abc", 0.3, 7)


def _named(checkpoint: Path, name: str, **other: Any) -> Calibration:
    numbers = {"slope": 0.9, "intercept": 0.5, "threshold_logit": -1.0, "positives": 30, "stays": 200}
    numbers |= {"checkpoint_sha256": file_sha256(checkpoint), **other}
    return Calibration(split="30% of the patients of here", recalibrated=replace(ANEW, name=name), **numbers)  # type: ignore[arg-type]


def test_a_calibration_under_a_name_is_beside_that_of_the_training(checkpoint):
    original = calibrate(checkpoint, _predictions())
    for name in ("ours", "ward-2"):
        write_calibration(_named(checkpoint, name), checkpoint)
    assert calibration_names(checkpoint) == ["ours", "ward-2"]
    found, line = read_calibration(checkpoint, name="ours")
    assert found == _named(checkpoint, "ours")
    assert line.startswith(
        "Calibration 'ours' fitted anew (intercept) on 30% of the patients of here (200 stays, 30 po"
    )
    assert read_calibration(checkpoint)[0] == original


def test_a_calibration_is_never_overwritten_by_another_of_its_name(checkpoint):
    write_calibration(_named(checkpoint, "ours"), checkpoint)
    with pytest.raises(AlreadyThereError, match=r"calibration_ours\.json"):
        write_calibration(_named(checkpoint, "ours", slope=2.0), checkpoint)
    assert read_calibration(checkpoint, name="ours")[0] == _named(checkpoint, "ours")


@pytest.mark.parametrize(
    ("task", "change", "reason"),
    [
        ("binary", None, "names beside .*best.ckpt: ours, theirs"),
        ("binary", lambda file: file.unlink(), "names beside .*best.ckpt: theirs"),
        ("regression", None, "predictions of --task regression are not calibrated"),
    ],
)
def test_a_name_that_is_not_there_is_an_error_that_lists_the_names(checkpoint, task, change, reason):
    for name in ("ours", "theirs"):
        write_calibration(_named(checkpoint, name), checkpoint)
    if change is not None:
        change(calibration_file(checkpoint, "ours"))
    with pytest.raises(InputError, match=f"calibration: received 'our'; {reason}"):
        read_calibration(checkpoint, task, name="our")


def test_a_named_calibration_of_another_checkpoint_is_an_error(checkpoint):
    write_calibration(_named(checkpoint, "ours"), checkpoint)
    checkpoint.write_bytes(b"other weights")
    with pytest.raises(InputError, match=r"calibration_ours\.json belongs to another checkpoint"):
        read_calibration(checkpoint, name="ours")


@pytest.mark.parametrize("damage", [{"seed": "x"}, {"data": None}, {"other": 1}, {"fraction": 1e40}])
def test_a_damaged_record_of_a_named_calibration_is_one_error(checkpoint, damage):
    write_calibration(_named(checkpoint, "ours"), checkpoint)
    file = calibration_file(checkpoint, "ours")
    content = json.loads(file.read_text())
    content["recalibrated"] |= damage
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"damaged .* Delete it; .*--save_calibration"):
        read_calibration(checkpoint, name="ours")


def test_the_subjects_of_a_recalibration_follow_from_their_numbers_alone():
    subject = np.arange(100_000)
    drawn = ANEW.fitted_on(subject)
    assert drawn.mean() == pytest.approx(0.3, abs=0.01)
    assert np.array_equal(ANEW.fitted_on(subject[::-2]), drawn[::-2])
    assert np.array_equal(ANEW.fitted_on(np.repeat(subject, 2)), np.repeat(drawn, 2))
    other = replace(ANEW, seed=8).fitted_on(subject)
    assert (drawn & other).mean() == pytest.approx(0.09, abs=0.01)  # another seed draws others
    assert replace(ANEW, fraction=0.0).fitted_on(subject).sum() == 0
