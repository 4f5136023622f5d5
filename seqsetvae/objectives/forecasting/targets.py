"""What is to be forecast of a batch, computed in the data loader: stays are cut at an hour.

Legend: E events, N stays, V variables of the model, T = 2 periods after the hour: the next hours, and all that follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from seqsetvae.batches.batch import Batch
from seqsetvae.models.variable_summaries.prepare import Summaries, Summarizer
from seqsetvae.models.variable_summaries.summaries import event_hours, stay_hours

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
        variable, value = self.summarizer.of_model(batch)
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
