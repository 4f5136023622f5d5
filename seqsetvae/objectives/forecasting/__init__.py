"""Forecast what is measured after an hour of a stay, from what is known until then. Imports no torch.

variable_summaries forecasts from the summaries up to a random hour, seqsetvae from the states of random sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from seqsetvae.cohort import Cohort
from seqsetvae.settings.declare import setting
from seqsetvae.settings.kinds import number

if TYPE_CHECKING:
    from seqsetvae.objectives.forecasting.objective import Forecasting, StateForecasting

TRAINS: frozenset[str] | None = frozenset({"variable_summaries", "seqsetvae"})
WATCHED: tuple[str, Literal["max", "min"]] = ("val_loss", "min")
METRICS: tuple[str, ...] = (
    "train_loss",
    "train_measured",
    "train_value",
    "val_loss",
    "val_measured",
    "val_value",
    "val_value_of_zero",
)
PRINTED = METRICS


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The next hours that are forecast, beside all that follow."""

    forecast_hours: float = setting(number(0, above=True), default=6.0)


def build_model(architecture: str, sizes: Any) -> Any:
    """The backbone alone; the weights of the forecast belong to the loss."""
    from seqsetvae.models import ARCHITECTURES

    return ARCHITECTURES[architecture].build(sizes)


def build_loss(settings: Settings, sizes: Any) -> Forecasting | StateForecasting:
    """The terms of the loss, with the weights of the forecast."""
    from seqsetvae.objectives.forecasting.objective import Forecasting, StateForecasting

    if hasattr(sizes, "vocabulary"):  # else variables are known by their embeddings
        return Forecasting(settings, sizes)
    return StateForecasting(settings, sizes.input_dim, sizes.latent_dim)


def advice(
    settings: Settings,
    sizes: Any,
    metrics: Mapping[str, float],
    step: int,
    epoch: int,
    cohort: Cohort,
) -> list[str]:
    """A warning where the forecast of values is no better than one number for each variable."""
    if metrics["val_value"] < metrics["val_value_of_zero"]:
        return []
    return [
        f"After {step:,} optimizer steps the forecast of values (val_value {metrics['val_value']:.3g}) is no better "
        f"than one that is always 0, each variable's usual value ({metrics['val_value_of_zero']:.3g}), so nothing "
        "useful was learned from these stays. Train longer (--max_epochs)."
    ]
