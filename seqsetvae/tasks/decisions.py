"""From a score to a decision: the threshold that a need asks for, and the band of scores on which none is made.

Both are chosen on validation stays. The band is split conformal prediction for each class by itself (label-conditional:
Vovk, 2012; the rank is that of Angelopoulos and Bates, 2023): at most a share alpha of each class is expected to be
called the other class, whatever the prevalence. A coverage of all stays together could leave out a rare outcome.

Legend: n stays, m thresholds, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqsetvae.system.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Decided = Mapping[str, tuple[dict[str, Any], Callable[[Floats], dict[str, Floats]]]]

YOUDEN, ADMISSIONS = "youden", "admissions_per_day"
UNDECIDED = "undecided"
ROUNDING = 1e-9  # a share that misses a limit by less reaches it
NEEDS = {  # name: (largest value, whether it may be reached, what the threshold is)
    "sensitivity": (1.0, True, "highest threshold with a sensitivity of at least {0:g}"),
    "specificity": (1.0, True, "lowest threshold with a specificity of at least {0:g}"),
    "ppv": (1.0, True, "lowest threshold with a PPV of at least {0:g}"),
    "alarms_per_day": (1e6, True, "lowest threshold with at most {0:g} alarms a day, at {1:g} admissions a day"),
    "net_benefit": (1.0, False, "calibrated probability {0:g}, where a true alarm is worth {2:.3g} false ones"),
}
ALLOWED = (
    f"{YOUDEN}, or one of sensitivity, specificity, ppv and net_benefit (a threshold probability) with a share, such "
    "as sensitivity=0.8, or alarms_per_day with a number, such as alarms_per_day=3"
)


@dataclass(frozen=True)
class Need:
    """What a threshold is chosen for."""

    name: str = YOUDEN
    value: float = math.nan
    admissions_per_day: float | None = None

    def __str__(self) -> str:
        """The text of the flag."""
        return self.name if self.name == YOUDEN else f"{self.name}={self.value}".removesuffix(".0")

    @property
    def words(self) -> str:
        """How the threshold is chosen."""
        if self.name == YOUDEN:
            return "highest Youden index"
        worth = (1 - self.value) / self.value
        return NEEDS[self.name][2].format(self.value, self.admissions_per_day or math.nan, worth)


def need_of(text: Any, admissions_per_day: float | None = None) -> Need:
    """What --threshold_for names. Raises ValueError for anything else."""
    name, _, number = str(text).partition("=")
    if name == YOUDEN and not number:
        return Need(admissions_per_day=admissions_per_day)
    largest, may_be_reached, _ = NEEDS.get(name, (0.0, False, ""))
    value = float(number)
    if not 0 < value <= largest or (value == largest and not may_be_reached):
        raise ValueError(ALLOWED)
    return Need(name, value, admissions_per_day)


# ------------------------------------------------------------------ the threshold


def threshold_logit(need: Need, label: Ints, logit: Floats, scaling: tuple[float, float] | None) -> float | None:
    """The logit from which a stay is called positive, of stays [n] of both classes; `scaling` is that of Platt.

    None if the need is the Youden index and no threshold separates the classes better than chance.

    Raises:
        InputError: no threshold does what is needed.
    """
    if need.name == "net_benefit":
        if scaling is None:
            raise InputError(
                f"--threshold_for {need}: needs calibrated probabilities, and on the validation split higher logits do "
                "not mean more positives. Use another checkpoint."
            )
        return probability_logit(need.value, *scaling)
    candidates, true, false = _positives_called(label, logit)
    positives, negatives = int((label == 1).sum()), int((label == 0).sum())
    if need.name == YOUDEN:
        index = true * negatives - false * positives  # times positives * negatives; whole numbers
        best = int(index.argmax())  # the highest such threshold
        return float(candidates[best]) if index[best] > 0 else None
    called = true + false
    if need.name == "sensitivity":
        return float(candidates[np.argmax(true / positives >= need.value - ROUNDING)])
    if need.name == "specificity":
        share, allowed = 1 - false / negatives, need.value
    elif need.name == "ppv":
        share, allowed = true / called, need.value
    else:
        assert need.admissions_per_day is not None, "settings are checked before a mode runs"
        share, allowed = -called / len(label), -need.value / need.admissions_per_day
    reached = np.flatnonzero(share >= allowed - ROUNDING)
    if not len(reached):
        highest = "" if need.name == "alarms_per_day" else f" The highest is {share.max():.3f}."
        raise InputError(
            f"--threshold_for {need}: no threshold reaches it on the {len(label):,} validation stays ({positives:,} "
            f"positive).{highest} Ask for less, or use more validation stays."
        )
    return float(candidates[reached[-1]])


def probability_logit(probability: float, slope: float, intercept: float) -> float:
    """The logit whose calibrated probability this is."""
    return (math.log(probability / (1 - probability)) - intercept) / slope


def _positives_called(label: Ints, logit: Floats) -> tuple[Floats, Ints, Ints]:
    """(different logits from the highest [m], positives and negatives that are called positive at each [m])."""
    order = np.argsort(-logit, kind="stable")
    last = np.flatnonzero(np.append(np.diff(logit[order]) != 0, True))
    return logit[order][last], np.cumsum(label[order] == 1)[last], np.cumsum(label[order] == 0)[last]


# ------------------------------------------------------------------ abstention


def conformal_bounds(label: Ints, logit: Floats, alpha: float) -> tuple[float, float]:
    """(lowest logit at which class 1 is not ruled out, highest at which class 0 is not), of validation stays [n].

    Of n stays of a class, the bound has ceil((n + 1)(1 - alpha)) on its side, so that another stay of the class is on
    this side with a probability of at least 1 - alpha (if it is exchangeable with them).

    Raises:
        InputError: a class has too few stays for this alpha.
    """
    needed = math.ceil((1 - alpha) / alpha - ROUNDING)
    bounds = []
    for value, distance in ((1, -logit), (0, logit)):
        own = np.sort(distance[label == value])
        if len(own) < needed:
            raise InputError(
                f"--abstain {alpha:g}: needs {needed:,} validation stays of each class, and there are {len(own):,} "
                f"with label {value}. Use a larger share than {alpha:g}, or more validation stays."
            )
        bounds.append(float(own[math.ceil((len(own) + 1) * (1 - alpha) - ROUNDING) - 1]))
    return -bounds[0], bounds[1]


def labels_left(logit: Floats, threshold: float, bounds: tuple[float, float]) -> tuple[Mask, Mask]:
    """Whether class 0 and class 1 are not ruled out, [n] each: what is decided agrees with the threshold.

    A class is also kept on the threshold's side, which only adds to the coverage, so no stay is without a class.
    """
    low, high = bounds
    return (logit <= high) | (logit < threshold), (logit >= low) | (logit >= threshold)


def decision(logit: Floats, threshold: float, bounds: tuple[float, float]) -> NDArray[np.str_]:
    """0, 1 or UNDECIDED for each stay."""
    zero, one = labels_left(logit, threshold, bounds)
    return np.where(zero & one, UNDECIDED, np.where(one, "1", "0"))


# ------------------------------------------------------------------ how often decisions are right


def decision_metrics(
    need: Need, label: Ints, logit: Floats, threshold: float | None, bounds: tuple[float, float] | None
) -> Decided:
    """`decision` and `abstention` of evaluation.json: facts, and a function of weights [R, n] for each metric."""
    sections: dict[str, tuple[dict[str, Any], Callable[[Floats], dict[str, Floats]]]] = {}
    if threshold is not None:
        facts = {"threshold_for": str(need), "words": need.words, ADMISSIONS: need.admissions_per_day}
        sections["decision"] = facts, lambda weights: _need_metrics(need, label, logit >= threshold, weights)
    if threshold is not None and bounds is not None:
        zero, one = labels_left(logit, threshold, bounds)
        undecided: Mask = zero & one
        covered: Mask = np.where(label == 1, one, zero)
        every: Mask = np.ones(len(label), dtype=np.bool_)
        counts = {name: int((decision(logit, threshold, bounds) == name).sum()) for name in ("0", "1", UNDECIDED)}
        shares = {
            "abstained": (undecided, every),
            "error among decided": (~covered, ~undecided),
            "coverage": (covered, every),
        }
        sections["abstention"] = {"counts": counts}, lambda weights: _abstention_metrics(shares, label, weights)
    return sections


def _need_metrics(need: Need, label: Ints, called: Mask, weights: Floats) -> dict[str, Floats]:
    """Metrics of the need that the threshold was chosen for."""
    total, metrics = weights.sum(axis=1), {}
    if need.admissions_per_day is not None:
        metrics["alarms a day"] = need.admissions_per_day * (weights @ called) / total
    if need.name == "net_benefit":
        worth = np.where(label == 1, 1.0, -need.value / (1 - need.value))
        metrics |= {
            "net benefit": weights @ (worth * called) / total,
            "net benefit of an alarm for every stay": weights @ worth / total,
        }
    return metrics


def _abstention_metrics(shares: Mapping[str, tuple[Mask, Mask]], label: Ints, weights: Floats) -> dict[str, Floats]:
    """Each share of its stays: of all, and of each class."""
    metrics = {}
    for name, (inside, of) in shares.items():
        for end, own in (("", of), (" of label 0", of & (label == 0)), (" of label 1", of & (label == 1))):
            with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: not defined
                metrics[name + end] = weights @ (inside & own) / (weights @ own)
    return metrics
