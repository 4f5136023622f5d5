"""The loss of forecasting: is each variable measured in a period after the cut, and what is the mean of its values.

What is to be forecast of a batch is computed in the data loader: stays are cut at an hour.

Legend: E events, N stays, H width of the pooled summaries, V variables of the model, T = 2 periods after the hour: the
next hours, and all that follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from seqsetvae.batches.batch import Batch
from seqsetvae.models.seqsetvae.running_statistics import of_one_length
from seqsetvae.models.variable_summaries.backbone import Backbone
from seqsetvae.models.variable_summaries.encoding import quantile
from seqsetvae.models.variable_summaries.prepare import Summaries, Summarizer
from seqsetvae.models.variable_summaries.sizes import Sizes
from seqsetvae.models.variable_summaries.summaries import SUMMARIES, event_hours, stay_hours
from seqsetvae.ops.rowwise import at_least_float32

Terms = dict[str, torch.Tensor]
Prepare = Callable[[Batch], Any]  # what a loader computes of a batch
SETS_PER_STAY = 8  # sets that a forecast is made at; more cost little, but those of one stay are much alike
NORMAL_RANGE = 2.563  # standard deviations of a normal distribution between its quantiles 0.1 and 0.9


class _Forecasting(nn.Module):
    """Base of the forecasts of all architectures."""

    def __init__(self, settings: Any) -> None:
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
        """Loss terms, and the loss of the forecast 0: each variable's median (summaries) or mean (z-scores)."""
        logits, values, target = self.forecast(model, batch, variables)
        return terms(logits, values, target) | {"value_of_zero": value_loss(torch.zeros_like(values), target.value)}

    def end_of_validation(self, step: int) -> dict[str, float]:
        """No further values."""
        return {}

    def hyper_parameters(self) -> dict[str, Any]:
        """The period of the forecast."""
        return {"forecast_hours": self.settings.forecast_hours}


class Forecasting(_Forecasting):
    """Forecast by a linear map of the pooled summaries up to an hour of each stay."""

    def __init__(self, settings: Any, sizes: Sizes) -> None:
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
            outputs = self.head(at_least_float32(pooled)).view(-1, self.n_variables, PERIODS, 2)
        return outputs[..., 0], outputs[..., 1], target


class StateForecasting(_Forecasting):
    """Forecast from the history state of some sets of each stay, for variables known by their embeddings alone.

    A variable has a vector and a number for each output, linear in its embedding; an output is the product of the
    vector and the state, plus the number.
    """

    def __init__(self, settings: Any, input_dim: int, width: int) -> None:
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
            weight = self.of_variable(of_one_length(variables, 1.0)).view(len(variables) * PERIODS * 2, -1)
            outputs = F.linear(states, weight[:, 1:], weight[:, 0]).view(len(states), -1, PERIODS, 2)
        return outputs[..., 0], outputs[..., 1], target


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


# ------------------------------------------------------------------ targets


EARLIEST, LATEST = 0.1, 0.9  # share of a stay's length: a stay is cut between them
PERIODS = 2  # T
LIMIT = 3.0  # units of `Scale`: values beyond are set to this
GOLDEN = 0.6180339887498949  # multiples of it are spread evenly over [0, 1) once their integer part is removed


@dataclass(eq=False)
class Forecast:
    """The summaries of each stay up to an hour, and what was measured after it."""

    before: Summaries
    measured: torch.Tensor  # [N, V, T] float32, 1 if the variable has an event in the period
    value: torch.Tensor  # [N, V, T] float32, mean of its values in units of `Scale`; NaN if there is none


@dataclass(frozen=True, eq=False)
class Scale:
    """Median and spread of each variable over training stays, which typing errors do not move: [V] each.

    A spread of NaN marks a variable whose values are not forecast, since it is rare or does not vary.
    """

    median: torch.Tensor
    spread: torch.Tensor


def random_hours(batch: Batch, length: float) -> torch.Tensor:
    """An hour of each stay, drawn anew each time: [N]."""
    return _hours(batch, length, torch.rand(batch.n_stays, dtype=torch.float64))


def fixed_hours(batch: Batch, length: float) -> torch.Tensor:
    """An hour of each stay that depends on its id alone, so that validations compare: [N]."""
    return _hours(batch, length, (batch.stay_id.double() * GOLDEN) % 1)


def _hours(batch: Batch, length: float, share: torch.Tensor) -> torch.Tensor:
    return stay_hours(batch).clamp_min(length) * (EARLIEST + (LATEST - EARLIEST) * share)


@dataclass(frozen=True, eq=False)
class Cutter:
    """Makes the `Forecast` of a batch.

    Attributes:
        summarizer: of the model.
        scale: of the model's variables.
        next_hours: length of the first period.
        hours: chooses the hour at which each stay is cut: (batch, length of the observation window) -> [N].
    """

    summarizer: Summarizer
    scale: Scale
    next_hours: float
    hours: Callable[[Batch, float], torch.Tensor]

    def __call__(self, batch: Batch) -> Forecast:
        """The forecast of a batch on the host."""
        until = self.hours(batch, self.summarizer.length)
        variable, value = self.summarizer.bounded_events(batch)
        scaled = (value - self.scale.median[variable]) / self.scale.spread[variable]
        later = later_events(batch, variable, scaled, len(self.scale.median), until, self.next_hours)
        return Forecast(self.summarizer(batch, until), *later)


@dataclass(eq=False)
class StateForecast:
    """Some sets of each stay, and what was measured after them; A of them in all, V variables of the cohort."""

    row: torch.Tensor  # [A] int64, the set among those of the batch, stay by stay
    measured: torch.Tensor  # [A, V, T] as in Forecast
    value: torch.Tensor  # [A, V, T] as in Forecast, in the units that the model reads


@dataclass(frozen=True)
class SetChooser:
    """Makes the `StateForecast` of a batch, at so many sets of each stay: random ones, or evenly spaced ones."""

    n_variables: int
    next_hours: float
    sets: int
    at_random: bool

    def __call__(self, batch: Batch) -> StateForecast:
        """The forecast of a batch on the host."""
        first = batch.sets_per_stay.cumsum(0) - batch.sets_per_stay
        hour_of_set = (batch.minute - batch.minute[first][batch.stay_of_set]) / 60
        rows, measured, value = [], [], []
        numbers = batch.value.double()
        for place in range(self.sets):
            share = torch.rand(batch.n_stays) if self.at_random else torch.tensor((place + 0.5) / self.sets)
            rows.append(first + (share * batch.sets_per_stay).long().clamp_max(batch.sets_per_stay - 1))
            until = hour_of_set[rows[-1]]
            later = later_events(batch, batch.variable, numbers, self.n_variables, until, self.next_hours)
            measured.append(later[0])
            value.append(later[1])
        return StateForecast(torch.cat(rows), torch.cat(measured), torch.cat(value))


def later_events(
    batch: Batch, variable: torch.Tensor, value: torch.Tensor, n_variables: int, until: torch.Tensor, next_hours: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which variables are measured in each period after the hours `until` [N], and their mean values: [N, V, T] each.

    `variable` [E], -1 for events that do not count, and `value` [E], limited to LIMIT, replace those of the batch.
    """
    _, stay, hour = event_hours(batch)
    ahead = hour - until[stay]
    inside = torch.stack([(ahead > 0) & (ahead <= next_hours), ahead > 0], dim=1) & (variable >= 0)[:, None]
    pair = stay * n_variables + variable.clamp_min(0)
    zeros = torch.zeros(batch.n_stays * n_variables, PERIODS, dtype=torch.float64)
    count = zeros.index_add(0, pair, inside.double())
    limited = value.clamp(-LIMIT, LIMIT)[:, None]
    mean = zeros.index_add(0, pair, torch.where(inside, limited, 0.0)) / count
    shape = (batch.n_stays, n_variables, PERIODS)
    return (count > 0).float().view(shape), mean.float().view(shape)
