"""One binary label, the default: the head gives two logits, whose difference is the log-odds of class 1.

Labels are those of the cohort. Probabilities are calibrated, and stays are classified at a decision threshold; both are
fitted on the validation split. Legend: n stays, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import seqsetvae.tasks.decisions as deciding
from seqsetvae.tasks.spec import Calibration as Fitted
from seqsetvae.tasks.spec import Spec
from seqsetvae.tasks.spec import encode as encode

if TYPE_CHECKING:
    import torch

    from seqsetvae.settings.groups import LossSettings

HELP = "one column of 0 and 1 (default)"
METRICS = ("auc", "auprc")
WATCHED = "auc"
BY_GROUP = ("auroc", "calibration_intercept", "sensitivity", "specificity")  # metrics that groups are compared by
CONSTANT = "prevalence"  # the baseline that looks at no stay
LABEL_IN_COHORT = True
OFFERS = ("loss", "schema", "threshold_for", "abstain")
NO_LABEL = -1  # as in seqsetvae.batches.batch, which imports torch
SAME = 1e-9  # difference between two computations of one threshold that rounding explains

Floats = NDArray[np.float64]


def predicted(output: torch.Tensor) -> torch.Tensor:
    """The log-odds of class 1 [n, 1] of two logits [n, 2]."""
    return output.detach().double().diff(dim=1)


def loss(
    spec: Spec, output: torch.Tensor, target: torch.Tensor, settings: LossSettings, class_weight: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy or focal loss of logits [N, 2] and classes [N], a (weighted) mean over the stays with a label.

    Label smoothing spreads a share of each target evenly over both classes (Szegedy et al., 2016).
    """
    from torch.nn.functional import cross_entropy

    if settings.loss == "focal":
        return focal(output, target, settings.focal_gamma, settings.focal_alpha)
    weight, smoothing = class_weight.to(output), settings.label_smoothing
    return cross_entropy(output, target, weight=weight, ignore_index=NO_LABEL, label_smoothing=smoothing)


def focal(logits: torch.Tensor, target: torch.Tensor, gamma: float, alpha: float | None) -> torch.Tensor:
    """Focal loss (Lin et al., 2017, equation 5) of logits [N, 2] and classes [N], a mean over the stays with a label.

    `alpha` weighs class 1 and 1 - alpha class 0; None weighs both by 1. It is computed from log-probabilities, so that
    it is finite for a confident wrong prediction.
    """
    import torch

    log_probabilities = torch.log_softmax(logits, dim=1)
    log_probability = log_probabilities.gather(1, target.clamp_min(0)[:, None]).squeeze(1)  # [N], of the true class
    # The lower limit keeps the gradient of the power finite for a confident right prediction and gamma below 1.
    miss = (-torch.expm1(log_probability)).clamp_min(torch.finfo(log_probability.dtype).tiny)  # 1 - probability
    loss = -(miss**gamma) * log_probability
    if alpha is not None:
        loss = loss * torch.where(target == 1, alpha, 1 - alpha)
    labelled = target != NO_LABEL
    return (loss * labelled).sum() / labelled.sum()


def weight(target: torch.Tensor, class_weight: torch.Tensor) -> torch.Tensor:
    """The sum of the class weights of the stays with a label."""
    return (class_weight[target.clamp_min(0)] * (target != NO_LABEL)).sum()


def metrics(spec: Spec, output: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """AUROC ("auc") and average precision ("auprc"), exact.

    Without validate_args, which would read everything back to the host: labels were checked in compiling the data.
    """
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    from seqsetvae.tasks.model import ranking_score

    known = target[:, 0] >= 0
    score, label = ranking_score(output[known, 0]), target[known, 0]
    return {
        "auc": binary_auroc(score, label, validate_args=False),
        "auprc": binary_average_precision(score, label, validate_args=False),
    }


def columns(spec: Spec, output: Floats, calibration: Calibration | None) -> dict[str, np.ndarray | None]:
    """Log-odds and probability of class 1, as the model gives it and calibrated; and the decision, with --abstain."""
    from scipy.special import expit

    calibrated = None if calibration is None else calibration.calibrated(output)
    named: dict[str, np.ndarray | None] = {
        "logit": output[:, 0],
        "probability": expit(output[:, 0]),
        "calibrated_probability": None if calibrated is None else expit(calibrated[:, 0]),
    }
    if calibration is not None and calibration.threshold_logit is not None and calibration.bounds is not None:
        named["decision"] = deciding.decision(output[:, 0], calibration.threshold_logit, calibration.bounds)
    return named


def labels(spec: Spec, target: Floats) -> dict[str, np.ndarray]:
    """The label."""
    return {"label": np.nan_to_num(target[:, 0]).astype(np.int8)}


def counts(target: Floats) -> dict[str, Any]:
    """Counts of the labels [n, 1] of a group of stays, for evaluation.json."""
    positives = int((target[:, 0] == 1).sum())
    return {"positives": positives, "prevalence": positives / len(target) if len(target) else None}


def strata(target: Floats) -> NDArray[np.int64]:
    """A resample has as many stays of each class as there are."""
    return target[:, 0].astype(np.int64)


def primary(spec: Spec) -> tuple[str, ...]:
    """The metrics whose difference to a baseline is shown."""
    return ("auroc", "auprc")


def weighted_metrics(
    spec: Spec, output: Floats, target: Floats, calibration: Calibration | None = None, *, only_primary: bool = False
) -> Callable[[Floats], dict[str, Floats]]:
    """BINARY_METRICS of tasks/scores.py; not defined (NaN) where all stays are of one class."""
    from seqsetvae.tasks.scores import BINARY_METRICS, Scores

    label, logit = target[:, 0].astype(np.int64), output[:, 0]
    if not 0 < label.sum() < len(label):
        return lambda weights: {name: np.full(len(weights), np.nan) for name in BINARY_METRICS}
    if calibration is None:
        scores = Scores(label, logit)
    else:
        scores = Scores(label, logit, calibration.threshold_logit, calibration.calibrated(logit))
    return scores.ranking if only_primary else scores.metrics


def curves(spec: Spec, output: Floats, target: Floats, calibration: Calibration | None = None) -> list[dict[str, Any]]:
    """Curves of the label, also of calibrated probabilities, and the counts at the threshold."""
    from seqsetvae.tasks.curves import label_curves

    if calibration is None:
        return label_curves(spec.names, output, target)
    return label_curves(spec.names, output, target, calibration.calibrated(output), calibration.threshold_logit)


def decisions(spec: Spec, output: Floats, target: Floats, calibration: Calibration | None) -> deciding.Decided:
    """Metrics of what the threshold and abstaining do to these stays."""
    if calibration is None:
        return {}
    label, logit = target[:, 0].astype(np.int64), output[:, 0]
    return deciding.decision_metrics(calibration.need, label, logit, calibration.threshold_logit, calibration.bounds)


def interactions(
    output: Floats, target: Floats, calibration: Calibration | None, group: NDArray[np.int64], seed: int
) -> dict[str, float | None]:
    """The p-value of each test that groups [n], numbered from 0, differ; None where it says nothing."""
    import seqsetvae.tasks.interaction as interaction

    label, logit = target[:, 0].astype(np.int64), output[:, 0]
    calibrated = None if calibration is None else calibration.calibrated(logit)
    p_values: dict[str, float | None] = {
        "auroc": interaction.auroc_p(label, logit, group),
        "calibration": interaction.calibration_p(label, logit if calibrated is None else calibrated, group),
    }
    threshold = None if calibration is None else calibration.threshold_logit
    for name, value in (("sensitivity", 1), ("specificity", 0)) if threshold is not None else ():
        own = label == value
        everywhere = len(np.unique(group[own])) == group.max() + 1
        p_values[name] = interaction.share_p(logit[own] >= threshold, group[own], seed) if everywhere else None
    return p_values


def constant(spec: Spec, train: Floats | None, target: Floats) -> dict[str, Floats]:
    """The log-odds of the evaluated stays' share of positives: no constant probability has a lower Brier score."""
    share = target[:, 0].mean()
    return {CONSTANT: np.full((len(target), 1), np.log(share / (1 - share)))}


def objective(spec: Spec) -> Any:
    """How members of an average are fitted: an Objective of labels."""
    import seqsetvae.tasks.fitting as fitting

    return fitting.LABELS


def baselines(spec: Spec) -> Mapping[str, Any]:
    """The baselines of several labels, for one."""
    from seqsetvae.tasks.multilabel import baselines as of_each_label

    return of_each_label(spec)


# ------------------------------------------------------------------ calibration and threshold


@dataclass(frozen=True, kw_only=True)
class Calibration(Fitted):
    """Platt scaling and a decision threshold for log-odds of class 1."""

    ABOUT: ClassVar[dict[str, str]] = {
        "method": "Platt scaling: calibrated log-odds = slope * logit + intercept",
        "abstain_rule": "no decision from conformal_low to conformal_high, widened to threshold_logit",
    }
    MISSING: ClassVar[str] = (
        "There is no calibration and no threshold for this checkpoint: Brier score, ECE, calibration slope and "
        "intercept are those of the uncalibrated probability."
    )
    SAME_STAYS: ClassVar[str] = (
        "Calibration and threshold were fitted on these stays: calibration slope and intercept, Brier score, ECE "
        "and the metrics at the threshold will be worse on new stays."
    )

    positives: int
    slope: float | None  # None: on that split higher logits do not mean more positives, so there is no calibration
    intercept: float | None
    threshold_logit: float | None  # None: no threshold separates the classes better than chance
    threshold_for: str | None = None  # --threshold_for; None: the highest Youden index
    admissions_per_day: float | None = None
    abstain: float | None = None  # --abstain; None: every stay is decided
    conformal_low: float | None = None  # logits, of tasks/decisions.py
    conformal_high: float | None = None

    def __post_init__(self) -> None:
        """A threshold that is a probability is that of another scaling too. Raises ValueError for a wrong need."""
        if self.need.name == "net_benefit" and self.slope is not None and self.intercept is not None:
            logit = deciding.probability_logit(self.need.value, self.slope, self.intercept)
            object.__setattr__(self, "threshold_logit", logit)

    def about(self) -> dict[str, str]:
        """What the numbers mean; the threshold by what it was chosen for."""
        return self.ABOUT | {"threshold_rule": f"{self.need.words}; a stay is positive if its logit is at least this"}

    @property
    def need(self) -> deciding.Need:
        """What the threshold was chosen for."""
        return deciding.need_of(self.threshold_for or deciding.YOUDEN, self.admissions_per_day)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The log-odds between which no decision is made; None: every stay is decided."""
        if self.conformal_low is None or self.conformal_high is None:
            return None
        return self.conformal_low, self.conformal_high

    @property
    def is_fitted(self) -> bool:
        return self.slope is not None and self.intercept is not None

    def calibrated(self, output: Floats) -> Floats | None:
        """Log-odds of the calibrated probabilities, of any shape; None without a calibration."""
        if self.slope is None or self.intercept is None:
            return None
        return self.slope * output + self.intercept

    @property
    def threshold(self) -> float | None:
        """The decision threshold as a calibrated probability, or as a probability without a calibration."""
        from scipy.special import expit

        if self.threshold_logit is None:
            return None
        logit = np.array([self.threshold_logit])
        calibrated = self.calibrated(logit)
        return float(expit(logit if calibrated is None else calibrated)[0])

    def is_of(self, split: str, target: Floats) -> bool:
        return super().is_of(split, target) and self.positives == counts(target)["positives"]

    def cautions(self, split: str, target: Floats) -> list[str]:
        text = "On the validation split higher logits do not mean more positives, so probabilities are not calibrated."
        return [*super().cautions(split, target), *[text] * (not self.is_fitted)]

    def require_agreement(self, threshold: Any) -> None:
        """Somebody who changes one of the numbers in a file does not change all."""
        if self.positives > self.stays or (self.slope is None) != (self.intercept is None):
            raise ValueError("its counts, or slope and intercept, contradict each other")
        if self.slope is not None and self.slope <= 0:
            raise ValueError(f"its slope is {self.slope:g}, and no calibration turns the order of risks around")
        if len({each is None for each in (self.abstain, self.conformal_low, self.conformal_high)}) > 1:
            raise ValueError("abstain, conformal_low and conformal_high contradict each other")
        ours = self.threshold
        is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool) and math.isfinite(threshold)
        if (threshold is not None) if ours is None else not (is_number and abs(threshold - ours) <= SAME):
            raise ValueError(
                f"its threshold {threshold!r:.40} contradicts slope, intercept and threshold_logit, which give "
                f"{ours!r}; what decides is threshold_logit"
            )

    def __str__(self) -> str:
        recalibrated, counts = self.recalibrated, f"({self.stays:,} stays, {self.positives:,} positive)"
        source = f"on the {self.split} split {counts}"
        if recalibrated is not None:
            source = f"anew ({recalibrated.kind}) on {self.split} {counts}"
        scaling = f"Platt scaling, slope {self.slope:.3f}, intercept {self.intercept:.3f}" if self.is_fitted else "none"
        threshold = "none" if self.threshold is None else f"{self.threshold:.3f} ({self.need.words})"
        name = "" if recalibrated is None else f" {recalibrated.name!r}"
        text = f"Calibration{name} fitted {source}: {scaling}; decision threshold {threshold}"
        if self.abstain is None:
            return text
        return f"{text}; undecided where more than {self.abstain:.1%} of a class would be called the other class"


def fit_calibration(output: Floats, target: Floats) -> dict[str, Any]:
    """Fit a calibration on outputs [n, 1] and labels [n, 1] of both classes."""
    from seqsetvae.tasks.scores import platt_scaling

    label, logit = target[:, 0].astype(np.int64), output[:, 0]
    slope, intercept = platt_scaling(label, logit) or (None, None)
    threshold = deciding.threshold_logit(deciding.Need(), label, logit, None)
    return {"positives": int(label.sum()), "slope": slope, "intercept": intercept, "threshold_logit": threshold}


def decide(
    fitted: Calibration, output: Floats, target: Floats, need: deciding.Need | None, abstain: float | None
) -> Calibration:
    """The calibration with another threshold or band, of the same stays; None: as it is, abstain 0: no band.

    Raises:
        InputError: these stays have no such threshold, or are too few for the band.
    """
    label, logit = target[:, 0].astype(np.int64), output[:, 0]
    if need is not None:
        scaling = None if fitted.slope is None or fitted.intercept is None else (fitted.slope, fitted.intercept)
        threshold = deciding.threshold_logit(need, label, logit, scaling)
        per_day, name = need.admissions_per_day, None if need.name == deciding.YOUDEN else str(need)
        fitted = replace(fitted, threshold_logit=threshold, threshold_for=name, admissions_per_day=per_day)
    if abstain is not None:
        low, high = deciding.conformal_bounds(label, logit, abstain) if abstain else (None, None)
        fitted = replace(fitted, abstain=abstain or None, conformal_low=low, conformal_high=high)
    return fitted
