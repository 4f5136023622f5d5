"""Numbers, such as the length of stay in days: an output for each column.

The head learns targets in standard deviations from the mean of the training stays; predictions are in the unit of the
column. Legend: n stays, K columns (and outputs), R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import seqsetvae.tasks.spec as common
from seqsetvae.system.errors import InputError
from seqsetvae.tasks.spec import Spec

if TYPE_CHECKING:
    import torch

HELP = "one column of numbers or several (predicted in their unit)"
METRICS = ("r2",)  # a mean over the columns
WATCHED = "r2"
CONSTANT = "training mean"  # the baseline that looks at no stay
LABEL_IN_COHORT = False
LESS_IS_BETTER = ("RMSE", "MAE")
OFFERS: tuple[str, ...] = ()
labels, counts, strata = common.labels, common.counts, common.strata
predicted, weight = common.predicted, common.weight
Calibration = None

Floats = NDArray[np.float64]
LARGEST = 1e12  # a label beyond is a fault of the file; the squares of far larger ones are infinite
FURTHEST = 1e6  # standard deviations


def fit(names: tuple[str, ...], cells: NDArray[np.str_], file: str) -> Spec:
    """Mean and standard deviation of the training stays. Raises InputError for a column that does not vary."""
    target = parse(Spec("regression", names, len(names)), cells, file)
    known = (~np.isnan(target)).sum(axis=0)
    mean, std = (np.nanmean(target, axis=0), np.nanstd(target, axis=0)) if known.all() else (known * 0.0, known * 0.0)
    for name, each in zip(names, std, strict=True):
        if not each > 0:
            raise InputError(f"{file}: the column {name!r} has not two different values among the training stays")
    return Spec("regression", names, len(names), (), tuple(mean.tolist()), tuple(std.tolist()))


def parse(spec: Spec, cells: NDArray[np.str_], file: str) -> Floats:
    """Numbers or NaN: [n, K]."""
    return common.numbers(
        spec.names, cells, file, lambda value: np.abs(value) <= LARGEST, f"a number up to {LARGEST:g}, empty"
    )


def encode(spec: Spec, target: Floats) -> Floats:
    """Targets in standard deviations from the training mean. Raises InputError for one that no loss can hold."""
    standardized = (target - np.array(spec.mean)) / np.array(spec.std)
    wrong = np.argwhere(np.abs(standardized) > FURTHEST)
    if len(wrong):
        row, column = wrong[0]
        raise InputError(
            f"the column {spec.names[column]!r} of the labels has the value {target[row, column]:g}, which is "
            f"{standardized[row, column]:.2g} standard deviations from the mean of the training stays "
            f"({spec.mean[column]:g}). Correct it, or leave it empty."
        )
    return standardized


def decode(spec: Spec, output: Floats) -> Floats:
    """Outputs in the unit of each column."""
    return output * np.array(spec.std) + np.array(spec.mean)


def loss(
    spec: Spec, output: torch.Tensor, target: torch.Tensor, settings: Any = None, class_weight: Any = None
) -> torch.Tensor:
    """Squared error in standard deviations, a mean over all labels that there are."""
    known = ~target.isnan()
    return ((output - target.nan_to_num()).square() * known).sum() / known.sum()


def metrics(spec: Spec, output: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """The coefficient of determination, a mean over the columns."""
    import torch

    r2 = []
    for column, prediction in zip(target.double().T, output.double().T, strict=True):
        known = ~column.isnan()
        residual = (column[known] - prediction[known]).square().sum()
        r2.append(1 - residual / (column[known] - column[known].mean()).square().sum())
    return {"r2": torch.stack(r2).mean()}


def columns(spec: Spec, output: Floats, calibration: Any = None) -> dict[str, np.ndarray | None]:
    """The predicted number of each column."""
    return {f"predicted {name}": column for name, column in zip(spec.names, decode(spec, output).T, strict=True)}


def primary(spec: Spec) -> tuple[str, ...]:
    """The metrics whose difference to a baseline is shown."""
    return tuple(f"{metric} of {name}" for name in spec.names for metric in ("R²", "MAE"))


def weighted_metrics(
    spec: Spec, output: Floats, target: Floats, calibration: Any = None, *, only_primary: bool = False
) -> Callable[[Floats], dict[str, Floats]]:
    """R², RMSE, MAE and mean error (predicted minus true) of each column, in its unit."""
    predicted = decode(spec, output)

    def of_column(k: int, weights: Floats) -> dict[str, Floats]:
        known = ~np.isnan(target[:, k])
        true, weights = target[known, k], weights[:, known]
        error, total = predicted[known, k] - true, weights.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0: not defined where all drawn stays are equal
            squared = weights @ error**2 / total
            variance = weights @ true**2 / total - (weights @ true / total) ** 2
            metrics = {
                "R²": 1 - squared / variance,
                "RMSE": np.sqrt(squared),
                "MAE": weights @ np.abs(error) / total,
                "mean error": weights @ error / total,
            }
        return {f"{name} of {spec.names[k]}": values for name, values in metrics.items()}

    def of(weights: Floats) -> dict[str, Floats]:
        return {name: values for k in range(len(spec.names)) for name, values in of_column(k, weights).items()}

    return of


def curves(spec: Spec, output: Floats, target: Floats, calibration: Any = None) -> list[dict[str, Any]]:
    """What is observed in groups of stays of similar prediction, for each column."""
    from seqsetvae.tasks.curves import number_curves

    pairs = zip(spec.names, decode(spec, output).T, target.T, ~np.isnan(target).T, strict=True)
    return [each for name, ours, true, known in pairs for each in number_curves(name, ours[known], true[known])]


def constant(spec: Spec, train: Floats | None, target: Floats) -> dict[str, Floats]:
    """The training mean, for which the output is 0."""
    return {} if train is None else {CONSTANT: np.zeros_like(target)}


def objective(spec: Spec) -> Any:
    """How members of an average are fitted: an Objective of numbers."""
    import seqsetvae.tasks.fitting as fitting

    return fitting.NUMBERS


def baselines(spec: Spec) -> Mapping[str, Any]:
    """A model for each column, fitted to the encoded targets."""
    import seqsetvae.tasks.fitting as fitting

    def encoded(fit_one: Any) -> Any:
        def fitted(train: tuple[np.ndarray, Floats], valid: tuple[np.ndarray, Floats]) -> Any:
            tables = [(table, encode(spec, target)) for table, target in (train, valid)]
            return fitting.each_column(fit_one, *tables)

        return fitted

    return {"boosted trees": encoded(fitting.regression_trees), "ridge regression": encoded(fitting.ridge_regression)}
