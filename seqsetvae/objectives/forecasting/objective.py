"""The loss of forecasting: is each variable measured in a period after the cut, and what is the mean of its values.

Legend: N stays, H width of the pooled summaries, V variables, T = 2 periods.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from seqsetvae.architectures.variable_summaries.backbone import Backbone
from seqsetvae.architectures.variable_summaries.sizes import Sizes
from seqsetvae.architectures.variable_summaries.summaries import SUMMARIES
from seqsetvae.batch import Batch
from seqsetvae.objectives.forecasting.targets import Cutter, Forecast, Scale, fixed_hours, random_hours
from seqsetvae.ops.rowwise import at_least_float32

if TYPE_CHECKING:
    from seqsetvae.objectives.forecasting import Settings

Terms = dict[str, torch.Tensor]
NORMAL_RANGE = 2.563  # standard deviations of a normal distribution between its quantiles 0.1 and 0.9


class Forecasting(nn.Module):
    """A linear map of the pooled summaries, and the terms of the loss."""

    def __init__(self, settings: Settings, sizes: Sizes) -> None:
        super().__init__()
        self.settings, self.n_variables = settings, len(sizes.vocabulary)
        self.head = nn.Linear(sizes.summary_width, self.n_variables * 2 * 2)

    def host_work(self, model: Backbone, variables: torch.Tensor) -> tuple[Cutter, Cutter]:
        """What the loaders of the training and of the validation split compute of a batch."""
        cutter = Cutter(model.summarizer(variables), scale_of(model), self.settings.forecast_hours, random_hours)
        return cutter, replace(cutter, hours=fixed_hours)

    def forward(self, pooled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, H] → logits of being measured and values, [N, V, T] each."""
        with torch.autocast(pooled.device.type, enabled=False):
            found = self.head(at_least_float32(pooled)).view(-1, self.n_variables, 2, 2)
        return found[..., 0], found[..., 1]

    def training_terms(self, model: Backbone, batch: Batch, variables: torch.Tensor, step: int) -> Terms:
        """Cross-entropy of being measured, over all variables, plus the Huber loss of the values that exist."""
        forecast = self._forecast(model, batch, variables)
        pooled = model.pooled(replace(batch, prepared=forecast.before), variables, "mean")
        logits, values = self(pooled)
        return terms(logits, values, forecast)

    def validation_terms(self, model: Backbone, batch: Batch, variables: torch.Tensor) -> Terms:
        """The same, and the loss of the median of each variable in place of a forecast."""
        forecast = self._forecast(model, batch, variables)
        found = self.training_terms(model, replace(batch, prepared=forecast), variables, 0)
        return found | {"value_of_median": value_loss(torch.zeros_like(forecast.value), forecast.value)}

    def _forecast(self, model: Backbone, batch: Batch, variables: torch.Tensor) -> Forecast:
        """What the loader has made, or else stays cut at their fixed hours."""
        if isinstance(batch.prepared, Forecast):
            return batch.prepared
        _, fixed = self.host_work(model, variables)
        return fixed(batch)

    def end_of_validation(self, step: int) -> dict[str, float]:
        """Nothing more."""
        return {}

    def hyper_parameters(self) -> dict[str, Any]:
        """The period of the forecast."""
        return {"forecast_hours": self.settings.forecast_hours}


def scale_of(model: Backbone) -> Scale:
    """Median of the means of each variable over training stays, and their spread, as a standard deviation."""
    mean = SUMMARIES.index("mean")
    edges = model.edges[:, mean].detach().cpu().double()
    spread = (edges[:, 3] - edges[:, 1]) / NORMAL_RANGE
    return Scale(edges[:, 2], spread.where(model.used[:, mean].cpu() & (spread > 0), torch.nan))


def terms(logits: torch.Tensor, values: torch.Tensor, forecast: Forecast) -> Terms:
    """The loss and its parts, of a forecast [N, V, T] each."""
    measured = F.binary_cross_entropy_with_logits(logits, forecast.measured.to(logits.dtype))
    value = value_loss(values, forecast.value)
    return {"loss": measured + value, "measured": measured, "value": value}


def value_loss(values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Huber loss, a mean over the targets that are not NaN; 0 if all are."""
    exists = target.isfinite()
    loss = F.smooth_l1_loss(values, target.nan_to_num().to(values.dtype), reduction="none")
    return (loss * exists).sum() / exists.sum().clamp_min(1)
