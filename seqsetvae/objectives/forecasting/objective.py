"""The loss of forecasting: is each variable measured in a period after the cut, and what is the mean of its values.

Legend: N stays, H width of the pooled summaries, V variables, T = 2 periods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from seqsetvae.batches.batch import Batch
from seqsetvae.models.variable_summaries.backbone import Backbone
from seqsetvae.models.variable_summaries.encoding import quantile
from seqsetvae.models.variable_summaries.sizes import Sizes
from seqsetvae.models.variable_summaries.summaries import SUMMARIES
from seqsetvae.objectives.forecasting.targets import (
    PERIODS,
    Cutter,
    Forecast,
    Scale,
    SetChooser,
    StateForecast,
    fixed_hours,
    random_hours,
)
from seqsetvae.ops.rowwise import at_least_float32

if TYPE_CHECKING:
    from seqsetvae.objectives.forecasting import Settings

Terms = dict[str, torch.Tensor]
Prepare = Callable[[Batch], Any]  # what a loader computes of a batch
SETS_PER_STAY = 8  # sets that a forecast is made at; more cost little, but those of one stay are much alike
NORMAL_RANGE = 2.563  # standard deviations of a normal distribution between its quantiles 0.1 and 0.9


class _Forecasting(nn.Module):
    """What the forecasts of all architectures share."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings

    def forecast(self, model: Any, batch: Batch, variables: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Logits of being measured [..., V, T], values [..., V, T], and the targets."""
        raise NotImplementedError

    def host_work(self, model: Any, variables: torch.Tensor) -> tuple[Prepare, Prepare]:
        """What the loaders of the training and of the validation split compute of a batch."""
        raise NotImplementedError

    def training_terms(self, model: Any, batch: Batch, variables: torch.Tensor, step: int) -> Terms:
        """Cross-entropy of being measured, over all variables, plus the Huber loss of the values that exist."""
        return terms(*self.forecast(model, batch, variables))

    def validation_terms(self, model: Any, batch: Batch, variables: torch.Tensor) -> Terms:
        """The same, and the loss of 0 in place of a forecast: each variable's median (summaries) or mean (z-scores)."""
        logits, values, target = self.forecast(model, batch, variables)
        return terms(logits, values, target) | {"value_of_zero": value_loss(torch.zeros_like(values), target.value)}

    def end_of_validation(self, step: int) -> dict[str, float]:
        """Nothing more."""
        return {}

    def hyper_parameters(self) -> dict[str, Any]:
        """The period of the forecast."""
        return {"forecast_hours": self.settings.forecast_hours}


class Forecasting(_Forecasting):
    """From the pooled summaries up to an hour of each stay, by a linear map."""

    def __init__(self, settings: Settings, sizes: Sizes) -> None:
        super().__init__(settings)
        self.n_variables = len(sizes.vocabulary)
        self.head = nn.Linear(sizes.summary_width, self.n_variables * PERIODS * 2)

    def host_work(self, model: Backbone, variables: torch.Tensor) -> tuple[Prepare, Prepare]:
        cutter = Cutter(model.summarizer(variables), scale_of(model), self.settings.forecast_hours, random_hours)
        return cutter, replace(cutter, hours=fixed_hours)

    def forecast(
        self, model: Backbone, batch: Batch, variables: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, Forecast]:
        target: Forecast = batch.prepared
        pooled = model.pooled(replace(batch, prepared=target.before), variables, "mean")
        with torch.autocast(pooled.device.type, enabled=False):
            found = self.head(at_least_float32(pooled)).view(-1, self.n_variables, PERIODS, 2)
        return found[..., 0], found[..., 1], target


class StateForecasting(_Forecasting):
    """From the history state of some sets of each stay, for variables that are known by their embeddings alone.

    A variable has a vector and a number for each output, linear in its embedding; an output is the product of the
    vector and the state, plus the number.
    """

    def __init__(self, settings: Settings, input_dim: int, width: int) -> None:
        """`input_dim` is the width of the embeddings, `width` that of the states."""
        super().__init__(settings)
        self.of_variable = nn.Linear(input_dim, PERIODS * 2 * (width + 1))

    def host_work(self, model: Any, variables: torch.Tensor) -> tuple[Prepare, Prepare]:
        chooser = SetChooser(len(variables), self.settings.forecast_hours, SETS_PER_STAY, at_random=True)
        return chooser, replace(chooser, at_random=False)

    def forecast(
        self, model: Any, batch: Batch, variables: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, StateForecast]:
        target: StateForecast = batch.prepared
        states = model.states(batch, variables)[target.row]
        with torch.autocast(states.device.type, enabled=False):
            states = at_least_float32(states)
            weight = self.of_variable(variables).view(len(variables) * PERIODS * 2, -1)
            found = F.linear(states, weight[:, 1:], weight[:, 0]).view(len(states), -1, PERIODS, 2)
        return found[..., 0], found[..., 1], target


def scale_of(model: Backbone) -> Scale:
    """Median of the means of each variable over training stays, and their spread, as a standard deviation."""
    mean = SUMMARIES.index("mean")
    edges = model.edges[:, mean].detach().cpu().double()
    low, median, high = (quantile(edges, probability) for probability in (0.1, 0.5, 0.9))
    spread = (high - low) / NORMAL_RANGE
    return Scale(median, spread.where(model.used[:, mean].cpu() & (spread > 0), torch.nan))


def terms(logits: torch.Tensor, values: torch.Tensor, forecast: Forecast | StateForecast) -> Terms:
    """The loss and its parts, of a forecast [N, V, T] each."""
    measured = F.binary_cross_entropy_with_logits(logits, forecast.measured.to(logits.dtype))
    value = value_loss(values, forecast.value)
    return {"loss": measured + value, "measured": measured, "value": value}


def value_loss(values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Huber loss, a mean over the targets that are not NaN; 0 if all are."""
    exists = target.isfinite()
    loss = F.smooth_l1_loss(values, target.nan_to_num().to(values.dtype), reduction="none")
    return (loss * exists).sum() / exists.sum().clamp_min(1)
