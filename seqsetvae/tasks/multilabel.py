"""Several binary labels at once: a logit for each column. A stay may lack some of its labels.

Legend: n stays, K labels (and outputs), R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import seqsetvae.tasks.spec as common
from seqsetvae.system.errors import InputError
from seqsetvae.tasks.spec import Calibration as Fitted
from seqsetvae.tasks.spec import Spec

if TYPE_CHECKING:
    import torch

HELP = "several columns of 0 and 1"
METRICS = ("auc", "auprc")  # means over the labels
WATCHED = "auc"
CONSTANT = "prevalence"  # the baseline that looks at no stay
LABEL_IN_COHORT = False
OFFERS: tuple[str, ...] = ()
labels, counts, strata = common.labels, common.counts, common.strata
encode, predicted, weight = common.encode, common.predicted, common.weight

Floats = NDArray[np.float64]


def fit(names: tuple[str, ...], cells: NDArray[np.str_], file: str) -> Spec:
    """Raises InputError unless there are two columns or more, each with both classes."""
    if len(names) < 2:
        raise InputError(f"label_name: received {names[0]!r}; allowed: two columns or more with --task multilabel")
    spec = Spec("multilabel", names, len(names))
    for name, column in zip(names, parse(spec, cells, file).T, strict=True):
        if {0.0, 1.0} - set(column[~np.isnan(column)]):
            raise InputError(f"{file}: the column {name!r} has not both 0 and 1 among the training stays")
    return spec


def parse(spec: Spec, cells: NDArray[np.str_], file: str) -> Floats:
    """0, 1 or NaN: [n, K]."""
    return common.numbers(spec.names, cells, file, lambda value: np.isin(value, (0.0, 1.0)), "0, 1, empty")


def loss(
    spec: Spec, output: torch.Tensor, target: torch.Tensor, settings: Any = None, class_weight: Any = None
) -> torch.Tensor:
    """Cross-entropy of each label, a mean over all that there are."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    known = ~target.isnan()
    each = binary_cross_entropy_with_logits(output, target.nan_to_num(), reduction="none")
    return (each * known).sum() / known.sum()


def metrics(spec: Spec, output: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean over the labels of AUROC ("auc") and average precision ("auprc")."""
    from seqsetvae.tasks.model import mean_ranking

    return mean_ranking(output, target)


def columns(spec: Spec, output: Floats, calibration: Any = None) -> dict[str, np.ndarray | None]:
    """The probability of each label, as the model gives it and calibrated."""
    from scipy.special import expit

    calibrated = None if calibration is None else calibration.calibrated(output)
    named: dict[str, np.ndarray | None] = {}
    for kind, logits in (("probability", output), ("calibrated_probability", calibrated)):
        columns = [None] * spec.width if logits is None else expit(logits).T
        named |= {f"{kind} of {name}": column for name, column in zip(spec.names, columns, strict=True)}
    return named


def primary(spec: Spec) -> tuple[str, ...]:
    """The metrics whose difference to a baseline is shown."""
    return ("mean AUROC", "mean AUPRC")


def weighted_metrics(
    spec: Spec, output: Floats, target: Floats, calibration: Any = None, *, only_primary: bool = False
) -> Callable[[Floats], dict[str, Floats]]:
    """AUROC, AUPRC and Brier score of each label, and the means of the first two.

    The Brier score is that of calibrated probabilities, where there are any.
    """
    from seqsetvae.tasks.scores import binary_metrics

    return binary_metrics(spec.names, output, target, None if calibration is None else calibration.calibrated(output))


def curves(spec: Spec, output: Floats, target: Floats, calibration: Any = None) -> list[dict[str, Any]]:
    """Curves of each label."""
    from seqsetvae.tasks.curves import label_curves

    return label_curves(spec.names, output, target, None if calibration is None else calibration.calibrated(output))


def constant(spec: Spec, train: Floats | None, target: Floats) -> dict[str, Floats]:
    """The log-odds of each label's share of positives among the training stays."""
    if train is None:
        return {}
    share = np.nanmean(train, axis=0)
    return {CONSTANT: np.tile(np.log(share / (1 - share)), (len(target), 1))}


def objective(spec: Spec) -> Any:
    """How members of an average are fitted: an Objective of labels."""
    import seqsetvae.tasks.fitting as fitting

    return fitting.LABELS


def baselines(spec: Spec) -> Mapping[str, Any]:
    """A model for each label."""
    import seqsetvae.tasks.fitting as fitting

    return {
        "boosted trees": lambda train, valid: fitting.each_column(fitting.boosted_trees, train, valid),
        "logistic regression": lambda train, valid: fitting.each_column(fitting.logistic_regression, train, valid),
    }


# ------------------------------------------------------------------ calibration


@dataclass(frozen=True, kw_only=True)
class Calibration(Fitted):
    """Platt scaling of each label. One whose higher logits do not mean more positives keeps slope 1 and intercept 0."""

    ABOUT: ClassVar[dict[str, str]] = {
        "method": "Platt scaling of each label: calibrated log-odds = slope * logit + intercept"
    }
    MISSING: ClassVar[str] = (
        "There is no calibration for this checkpoint: Brier scores are of uncalibrated probabilities."
    )
    SAME_STAYS: ClassVar[str] = "The calibration was fitted on these stays: Brier scores will be worse on new stays."

    slope: tuple[float, ...]  # of each label
    intercept: tuple[float, ...]

    def calibrated(self, output: Floats) -> Floats:
        """Log-odds of the calibrated probabilities."""
        return output * np.array(self.slope) + np.array(self.intercept)

    def require_agreement(self, threshold: Any) -> None:
        if len(self.slope) != len(self.intercept) or min(self.slope, default=0.0) <= 0:
            raise ValueError("its slopes and intercepts are not those of the labels; a slope is above 0")

    def __str__(self) -> str:
        slopes = ", ".join(f"{slope:.3f}" for slope in self.slope)
        source = f"{self.split} split ({self.stays:,} stays)"
        return f"Calibration fitted on the {source}: Platt scaling of each label, slopes {slopes}"


def fit_calibration(output: Floats, target: Floats) -> dict[str, Any]:
    """Slopes and intercepts, from log-odds and labels 0/1/NaN [n, K]."""
    from seqsetvae.tasks.scores import platt_scaling

    pairs = []
    for logit, label in zip(output.T, target.T, strict=True):
        known = ~np.isnan(label)
        has_both = len(np.unique(label[known])) == 2
        pairs.append((has_both and platt_scaling(label[known].astype(np.int64), logit[known])) or (1.0, 0.0))
    slope, intercept = zip(*pairs, strict=True)
    return {"slope": slope, "intercept": intercept}
