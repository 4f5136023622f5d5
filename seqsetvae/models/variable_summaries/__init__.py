"""Variable summaries: a network on per-variable summaries of a stay; docs/variable-summaries.md. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from seqsetvae.models.variable_summaries.sizes import OFFERS, PRESETS, RECIPE, Sizes, problems, recipe_for
from seqsetvae.settings.old_names import current
from seqsetvae.system.errors import InputError

if TYPE_CHECKING:
    from seqsetvae.models.variable_summaries.backbone import Backbone

__all__ = [
    "INERT",
    "NOT_IN_SHAPES",
    "OFFERS",
    "PRESETS",
    "RECIPE",
    "SKIPPED",
    "VALUE_TRANSFORM",
    "Sizes",
    "build",
    "canonical_name",
    "current_sizes",
    "explain",
    "infer_sizes",
    "problems",
    "random_in_file",
    "recipe_for",
]

VALUE_TRANSFORM = "z_score"
SKIPPED: tuple[str, ...] = (r"objective\..*",)  # of pretraining
INERT = frozenset({"presence", "combination_presence"})  # without effect on predictions; earlier versions had none
NOT_IN_SHAPES: tuple[str, ...] = ()


def build(sizes: Sizes) -> Backbone:
    """A network with random weights, to be fitted to training stays."""
    from seqsetvae.models.variable_summaries.backbone import Backbone

    return Backbone(sizes)


def canonical_name(key: str) -> str:
    """The key unchanged: there is one checkpoint layout."""
    return key


def explain(stored: Mapping[str, Sequence[int]]) -> str:
    """Nothing to explain: there is one kind of file."""
    return ""


def random_in_file(stored: Mapping[str, Sequence[int]]) -> list[str]:
    """No weight: no version left any random."""
    return []


def current_sizes(stated: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Sizes that a checkpoint states, as this version has them; the first ones, without an encoding, had another.

    Raises:
        InputError: the network reads another encoding than normal scores.
    """
    return current({"summary_encoding": "piecewise_linear", **stated}, file)


def infer_sizes(
    shapes: Mapping[str, Sequence[int]], stated: Mapping[str, Any], fallback: Mapping[str, Any], file: str
) -> Sizes:
    """The sizes that a checkpoint states, and the number of forecasts, which its weights show.

    Raises:
        InputError: it does not state them, or they do not fit together.
    """
    try:
        (forecasts,) = shapes.get("forecast_bias", (0,))
        stated = {**current_sizes(stated, file), "forecasts": forecasts}
        values = {field.name: stated[field.name] for field in fields(Sizes)}
        return Sizes(**{**values, "vocabulary": tuple(values["vocabulary"])})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: its hyper_parameters do not hold the sizes of the network ({error}).") from error
