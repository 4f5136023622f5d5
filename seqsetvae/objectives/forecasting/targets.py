"""What is to be forecast of a batch, computed in the data loader: stays are cut at an hour.

Legend: E events, N stays, V variables of the model, T = 2 periods after the hour: the next hours, and all that follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from seqsetvae.architectures.variable_summaries.prepare import Summaries, Summarizer
from seqsetvae.architectures.variable_summaries.summaries import event_hours, stay_hours
from seqsetvae.batch import Batch

EARLIEST, LATEST = 0.1, 0.9  # share of a stay's length: a stay is cut between them
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
        _, stay, hour = event_hours(batch)
        ahead = hour - until[stay]
        scaled = ((value - self.scale.median[variable]) / self.scale.spread[variable]).clamp(-LIMIT, LIMIT)
        inside = torch.stack([(ahead > 0) & (ahead <= self.next_hours), ahead > 0], dim=1) & (variable >= 0)[:, None]
        n_variables = len(self.scale.median)
        pair = stay * n_variables + variable.clamp_min(0)
        zeros = torch.zeros(batch.n_stays * n_variables, 2, dtype=torch.float64)
        count = zeros.index_add(0, pair, inside.double())
        total = zeros.index_add(0, pair, torch.where(inside, scaled[:, None], 0.0))
        shape = (batch.n_stays, n_variables, 2)
        return Forecast(
            before=self.summarizer(batch, until),
            measured=(count > 0).float().view(shape),
            value=(total / count).float().view(shape),
        )
