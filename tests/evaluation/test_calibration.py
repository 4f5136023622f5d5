"""Calibration and threshold of a checkpoint: fitted, kept with its checksum, and applied only to it."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from seqsetvae.evaluation.calibration import CALIBRATION, calibrate, calibration_file, fit_calibration, read_calibration
from seqsetvae.evaluation.predictions import Predictions
from seqsetvae.system.errors import InputError
from seqsetvae.system.files import file_sha256
from seqsetvae.tasks.binary import Calibration
from seqsetvae.tasks.scores import platt_scaling, youden_threshold
from seqsetvae.tasks.spec import one_label


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
    assert calibration.threshold_logit == youden_threshold(label, logit)
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
