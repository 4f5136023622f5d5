"""One label of several classes: a logit for each class.

Legend: n stays, C classes (and outputs), R resamples.
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

HELP = "one column of classes, as numbers or text"
METRICS = ("auc", "accuracy")  # mean over the classes of one class against the others; share of right classes
WATCHED = "auc"
CONSTANT = "shares of the classes"  # the baseline that looks at no stay
LABEL_IN_COHORT = False
LESS_IS_BETTER = ("log loss",)
OFFERS: tuple[str, ...] = ()
labels, counts, strata = common.labels, common.counts, common.strata
encode, predicted, weight = common.encode, common.predicted, common.weight

TEMPERATURES = (0.05, 20.0)  # between which one is sought
MOST_CLASSES = 100  # more are not classes but, for example, numbers to be predicted

Floats = NDArray[np.float64]


def fit(names: tuple[str, ...], cells: NDArray[np.str_], file: str) -> Spec:
    """The classes are those of the training stays. Raises InputError for fewer than 2 or more than MOST_CLASSES."""
    if len(names) != 1:
        raise InputError(f"label_name: received {','.join(names)!r}; allowed: one column with --task multiclass")
    classes = sorted(set(cells[:, 0].tolist()) - {""}, key=_order)
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise InputError(
            f"{file}: the column {names[0]!r} has {len(classes):,} different values among the training stays; --task "
            f"multiclass needs 2 to {MOST_CLASSES}. To predict a number use --task regression."
        )
    return Spec("multiclass", names, len(classes), tuple(classes))


def _order(name: str) -> tuple[bool, float, str]:
    """Numbers by size, then text."""
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name


def parse(spec: Spec, cells: NDArray[np.str_], file: str) -> Floats:
    """The place of each class among the classes, NaN without one: [n, 1]."""
    place = {name: float(at) for at, name in enumerate(spec.classes)} | {"": np.nan}
    unknown = sorted(set(cells[:, 0].tolist()) - set(place))
    if unknown:
        raise InputError(
            f"{file}: the column {spec.names[0]!r} has the class {unknown[0]!r}, which no training stay has; the "
            f"classes are {', '.join(spec.classes)}"
        )
    return np.array([[place[cell]] for cell in cells[:, 0].tolist()], dtype=np.float64).reshape(-1, 1)


def loss(
    spec: Spec, output: torch.Tensor, target: torch.Tensor, settings: Any = None, class_weight: Any = None
) -> torch.Tensor:
    """Cross-entropy, a mean over the stays with a label."""
    from torch.nn.functional import cross_entropy

    known = ~target[:, 0].isnan()
    place = target[:, 0].nan_to_num(-1).long()
    return cross_entropy(output, place, ignore_index=-1, reduction="sum") / known.sum()


def metrics(spec: Spec, output: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """AUROC of each class against the others, a mean over the classes ("auc"), and the accuracy."""
    import torch

    from seqsetvae.tasks.model import mean_ranking

    known = ~target[:, 0].isnan()
    output, place = output[known], target[known, 0].long()
    of_class = torch.nn.functional.one_hot(place, spec.width).to(output)
    scores = torch.stack([_against_others(output, c) for c in range(spec.width)], dim=1)
    right = (output.argmax(dim=1) == place).double().mean()
    return {"auc": mean_ranking(scores, of_class)["auc"], "accuracy": right}


def _against_others(output: Any, c: int) -> Any:
    """Log-odds of a class against all others: they do not saturate as probabilities do, so no ties arise."""
    others = [k for k in range(output.shape[1]) if k != c]
    return output[:, c] - output[:, others].logsumexp(dim=1)


def _log_odds(output: Floats) -> Floats:
    from scipy.special import logsumexp

    others = [[k for k in range(output.shape[1]) if k != c] for c in range(output.shape[1])]
    return np.stack([output[:, c] - logsumexp(output[:, rest], axis=1) for c, rest in enumerate(others)], axis=1)


def columns(spec: Spec, output: Floats, calibration: Any = None) -> dict[str, np.ndarray | None]:
    """The most probable class, and the probability of each, as the model gives it and calibrated."""
    from scipy.special import softmax

    calibrated = None if calibration is None else calibration.calibrated(output)
    named: dict[str, np.ndarray | None] = {"predicted": np.array(spec.classes)[output.argmax(axis=1)]}
    for kind, logits in (("probability", output), ("calibrated_probability", calibrated)):
        columns = [None] * spec.width if logits is None else softmax(logits, axis=1).T
        named |= {f"{kind} of {name}": column for name, column in zip(spec.classes, columns, strict=True)}
    return named


def primary(spec: Spec) -> tuple[str, ...]:
    """The metrics whose difference to a baseline is shown."""
    return ("mean AUROC", "accuracy")


def weighted_metrics(
    spec: Spec, output: Floats, target: Floats, calibration: Any = None, *, only_primary: bool = False
) -> Callable[[Floats], dict[str, Floats]]:
    """Accuracy, log loss, and for each class against the others AUROC, AUPRC and Brier score, with their means.

    Log loss and Brier score are those of calibrated probabilities, where there are any.
    """
    from scipy.special import log_softmax

    from seqsetvae.tasks.scores import binary_metrics

    place = target[:, 0].astype(np.int64)
    right = (output.argmax(axis=1) == place).astype(np.float64)
    risk = output if calibration is None else calibration.calibrated(output)
    log_loss = -log_softmax(risk, axis=1)[np.arange(len(place)), place]
    of_classes = binary_metrics(spec.classes, _log_odds(output), np.eye(spec.width)[place], _log_odds(risk))

    def of(weights: Floats) -> dict[str, Floats]:
        total = weights.sum(axis=1)
        return {"accuracy": weights @ right / total, "log loss": weights @ log_loss / total, **of_classes(weights)}

    return of


def curves(spec: Spec, output: Floats, target: Floats, calibration: Any = None) -> list[dict[str, Any]]:
    """Curves of each class against the others."""
    from seqsetvae.tasks.curves import label_curves

    calibrated = None if calibration is None else _log_odds(calibration.calibrated(output))
    of_class = np.eye(spec.width)[target[:, 0].astype(np.int64)]
    return label_curves(spec.classes, _log_odds(output), of_class, calibrated)


def constant(spec: Spec, train: Floats | None, target: Floats) -> dict[str, Floats]:
    """The logarithm of each class's share among the training stays."""
    if train is None:
        return {}
    known = train[~np.isnan(train[:, 0]), 0].astype(np.int64)
    share = np.bincount(known, minlength=spec.width) / len(known)
    return {CONSTANT: np.tile(np.log(share), (len(target), 1))}


def objective(spec: Spec) -> Any:
    """How members of an average are fitted: an Objective of classes."""
    import seqsetvae.tasks.fitting as fitting

    return fitting.classes(spec.width)


def baselines(spec: Spec) -> Mapping[str, Any]:
    """Multinomial models."""
    import seqsetvae.tasks.fitting as fitting

    return {
        "boosted trees": lambda train, valid: fitting.multiclass_trees(train, valid, spec.width),
        "logistic regression": fitting.multinomial_regression,
    }


# ------------------------------------------------------------------ calibration


@dataclass(frozen=True, kw_only=True)
class Calibration(Fitted):
    """Temperature scaling (Guo et al., 2017): all logits are divided by one number, so no class is ranked anew."""

    ABOUT: ClassVar[dict[str, str]] = {"method": "temperature scaling: calibrated logits = logits / temperature"}
    MISSING: ClassVar[str] = (
        "There is no calibration for this checkpoint: log loss and Brier scores are of uncalibrated probabilities."
    )
    SAME_STAYS: ClassVar[str] = (
        "The calibration was fitted on these stays: log loss and Brier scores will be worse on new stays."
    )

    temperature: float

    def calibrated(self, output: Floats) -> Floats:
        """Calibrated logits."""
        return output / self.temperature

    def require_agreement(self, threshold: Any) -> None:
        if self.temperature <= 0:
            raise ValueError(f"its temperature is {self.temperature:g}; it must be above 0")

    def __str__(self) -> str:
        source = f"{self.split} split ({self.stays:,} stays)"
        return f"Calibration fitted on the {source}: temperature scaling, temperature {self.temperature:.3f}"


def fit_calibration(output: Floats, target: Floats) -> dict[str, Any]:
    """The temperature of the lowest log loss, from logits [n, C] and the places of the classes [n, 1]."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    rows, place = np.arange(len(output)), target[:, 0].astype(np.int64)

    def log_loss(log_temperature: float) -> float:
        return -float(log_softmax(output / np.exp(log_temperature), axis=1)[rows, place].mean())

    minimum = minimize_scalar(log_loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-6})
    return {"temperature": float(np.exp(minimum.x))}
