"""SeqSetVAE: a set encoder, then a causal transformer over the means of the sets. Importing this imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqsetvae.models.seqsetvae.layout import (
    INERT,
    NOT_IN_SHAPES,
    SKIPPED,
    canonical_name,
    explain,
    infer_sizes,
    random_in_file,
)
from seqsetvae.models.seqsetvae.sizes import OFFERS, PRESETS, RECIPES, Sizes, problems

if TYPE_CHECKING:
    from seqsetvae.models.seqsetvae.backbone import Backbone

__all__ = [
    "INERT",
    "NOT_IN_SHAPES",
    "OFFERS",
    "PRESETS",
    "RECIPES",
    "SKIPPED",
    "VALUE_TRANSFORM",
    "Sizes",
    "build",
    "canonical_name",
    "explain",
    "infer_sizes",
    "problems",
    "random_in_file",
]

VALUE_TRANSFORM = "z_score"
OTHER_VALUE_TRANSFORMS = ("quantiles", "normal_scores")


def build(sizes: Sizes) -> Backbone:
    """A backbone with random weights."""
    from seqsetvae.models.seqsetvae.backbone import Backbone

    return Backbone(sizes)
