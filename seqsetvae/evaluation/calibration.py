"""Calibrated probabilities and a decision threshold of a checkpoint, both fitted on the validation split.

They are kept in calibration.json in the run folder, with the checksum of the checkpoint that they belong to: they mean
nothing for the logits of another one.

Legend: n stays.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from seqsetvae.errors import InputError
from seqsetvae.evaluation.statistics import platt_scaling, youden_threshold
from seqsetvae.files import file_sha256, write_text

if TYPE_CHECKING:  # it imports torch, and results are read without it
    from seqsetvae.evaluation.predictions import Predictions

CALIBRATION = "calibration.json"
METHOD = "Platt scaling: calibrated log-odds = slope * logit + intercept"
SAME = 1e-9  # difference between two computations of one threshold that rounding explains
RULE = "highest Youden index (sensitivity + specificity - 1); a stay is positive if its logit is at least this"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Platt scaling and a decision threshold for the logits of one checkpoint."""

    checkpoint_sha256: str
    split: str  # on which it was fitted
    stays: int
    positives: int
    slope: float | None  # None: on that split higher logits do not mean more positives, so there is no calibration
    intercept: float | None
    threshold_logit: float | None  # None: no threshold separates the classes better than chance

    @property
    def is_fitted(self) -> bool:
        return self.slope is not None and self.intercept is not None

    def calibrated_logit(self, logit: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Log-odds of the calibrated probabilities: [n] → [n]; None without a calibration."""
        if self.slope is None or self.intercept is None:
            return None
        return self.slope * logit + self.intercept

    @property
    def threshold(self) -> float | None:
        """The decision threshold as a calibrated probability, or as a probability without a calibration."""
        if self.threshold_logit is None:
            return None
        logit = np.array([self.threshold_logit])
        calibrated = self.calibrated_logit(logit)
        return float(expit(logit if calibrated is None else calibrated)[0])

    def __str__(self) -> str:
        source = f"{self.split} split ({self.stays:,} stays, {self.positives:,} positive)"
        scaling = f"Platt scaling, slope {self.slope:.3f}, intercept {self.intercept:.3f}" if self.is_fitted else "none"
        threshold = "none" if self.threshold is None else f"{self.threshold:.3f} (highest Youden index)"
        return f"Calibration fitted on the {source}: {scaling}; decision threshold {threshold}"


def calibrate(checkpoint: Path, validation: Predictions) -> Calibration:
    """Fit the calibration of a checkpoint on its validation predictions, and write it to its run folder.

    Raises:
        CannotWriteError: the file cannot be written.
    """
    calibration = fit_calibration(checkpoint, validation)
    write_calibration(calibration, checkpoint)
    return calibration


def write_calibration(calibration: Calibration, checkpoint: Path) -> dict[str, Any]:
    """Write calibration.json for a checkpoint; returns its content. Raises CannotWriteError."""
    content = {"checkpoint": checkpoint.name, "method": METHOD, "threshold_rule": RULE, **asdict(calibration)}
    content["threshold"] = calibration.threshold
    write_text(calibration_file(checkpoint), json.dumps(content, indent=2) + "\n")
    return content


def fit_calibration(checkpoint: Path, validation: Predictions) -> Calibration:
    """The calibration of a checkpoint from its validation predictions of both classes; nothing is written."""
    labelled = validation.labelled()
    label, logit = labelled.label.cpu().numpy(), labelled.logit.cpu().numpy()
    slope, intercept = platt_scaling(label, logit) or (None, None)
    return Calibration(
        checkpoint_sha256=file_sha256(checkpoint),
        split=validation.split,
        stays=len(label),
        positives=int(label.sum()),
        slope=slope,
        intercept=intercept,
        threshold_logit=youden_threshold(label, logit),
    )


def calibration_file(checkpoint: Path) -> Path:
    """Where the calibration of a checkpoint is: in its run folder, or beside a checkpoint without one."""
    folder = checkpoint.resolve().parent
    return (folder.parent if folder.name == "checkpoints" else folder) / CALIBRATION


def read_calibration(checkpoint: Path) -> tuple[Calibration | None, str]:
    """(the calibration of a checkpoint, or None; one line that says what was found).

    Raises:
        InputError: the file is damaged.
    """
    file = calibration_file(checkpoint)
    if not file.is_file():
        return None, f"No calibration: there is no {file}"
    calibration = _read(file)
    if calibration.checkpoint_sha256 != file_sha256(checkpoint):
        return None, f"No calibration: {file} belongs to another checkpoint than {checkpoint.name}"
    return calibration, str(calibration)


def _read(file: Path) -> Calibration:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        calibration = Calibration(**{name: content[name] for name in Calibration.__dataclass_fields__})
        numbers = (calibration.slope, calibration.intercept, calibration.threshold_logit)
        counts = (calibration.stays, calibration.positives)
        texts = (calibration.checkpoint_sha256, calibration.split)
        is_valid = (
            all(map(_is_number_or_none, numbers))
            and all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts)
            and all(isinstance(text, str) for text in texts)
        )
        if not is_valid:
            raise ValueError("a value of the wrong type")
        slope, intercept, threshold = (None if number is None else float(number) for number in numbers)
        found = replace(calibration, slope=slope, intercept=intercept, threshold_logit=threshold)
        _require_agreement(found, content.get("threshold", found.threshold))
        return found
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{file}: damaged ({type(error).__name__}: {error}). Delete it; --mode evaluate then fits it again."
        ) from None


def _require_agreement(found: Calibration, threshold: Any) -> None:
    """Raises ValueError unless the numbers of a file agree: somebody who changes one of them does not change all."""
    if found.positives > found.stays or (found.slope is None) != (found.intercept is None):
        raise ValueError("its counts, or slope and intercept, contradict each other")
    if found.slope is not None and found.slope <= 0:
        raise ValueError(f"its slope is {found.slope:g}, and no calibration turns the order of risks around")
    ours = found.threshold
    is_same = threshold is None if ours is None else _is_number_or_none(threshold) and threshold is not None
    if not is_same or (ours is not None and abs(threshold - ours) > SAME):
        raise ValueError(
            f"its threshold {threshold!r:.40} contradicts slope, intercept and threshold_logit, which give {ours!r}; "
            "what decides is threshold_logit"
        )


def _is_number_or_none(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (is_number and math.isfinite(value) and abs(value) < 1e30)
