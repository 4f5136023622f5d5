"""Several binary labels at once: a logit for each column. A stay may lack some of its labels.

Legend: n stays, K labels (and outputs), R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import seqsetvae.tasks.cells as common
from seqsetvae.system.errors import InputError
from seqsetvae.tasks.spec import Spec

if TYPE_CHECKING:
    import torch

HELP = "several columns of 0 and 1"
RECIPE: dict[str, Any] = {"tree_models": 0}  # their targets are those of one binary label
METRICS = ("auc", "auprc")  # means over the labels
WATCHED = "auc"
LABEL_IN_COHORT = False
OFFERS: tuple[str, ...] = ()
labels, counts, strata, cautions = common.labels, common.counts, common.strata, common.cautions
predicted, weight = common.predicted, common.weight
Calibration = None

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """None of its own."""


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


def encode(spec: Spec, target: Floats) -> Floats:
    """As they are."""
    return target


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
    """The probability of each label."""
    from scipy.special import expit

    return {f"probability of {name}": expit(output[:, k]) for k, name in enumerate(spec.names)}


def primary(spec: Spec) -> tuple[str, ...]:
    """The metrics whose difference to a baseline is shown."""
    return ("mean AUROC", "mean AUPRC")


def figures(
    spec: Spec, output: Floats, target: Floats, calibration: Any = None, *, only_primary: bool = False
) -> Callable[[Floats], dict[str, Floats]]:
    """AUROC, AUPRC and Brier score of each label, and the means of the first two."""
    from seqsetvae.tasks.scores import binary_figures

    return binary_figures(spec.names, output, target)


def curves(spec: Spec, output: Floats, target: Floats, calibration: Any = None) -> list[dict[str, Any]]:
    """Those of each label."""
    from seqsetvae.tasks.curves import label_curves

    return label_curves(spec.names, output, target)


def constant(spec: Spec, train: Floats | None, target: Floats) -> dict[str, Floats]:
    """The log-odds of each label's share of positives among the training stays."""
    if train is None:
        return {}
    share = np.nanmean(train, axis=0)
    return {"prevalence": np.tile(np.log(share / (1 - share)), (len(target), 1))}


def baselines(spec: Spec) -> Mapping[str, Any]:
    """A model for each label."""
    import seqsetvae.tasks.fitting as fitting

    return {
        "boosted trees": lambda train, valid: fitting.each_column(fitting.boosted_trees, train, valid),
        "logistic regression": lambda train, valid: fitting.each_column(fitting.logistic_regression, train, valid),
    }
