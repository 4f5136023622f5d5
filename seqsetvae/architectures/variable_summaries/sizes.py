"""The sizes of the network on variable summaries, as settings, and its recipe. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from seqsetvae.settings.declare import setting
from seqsetvae.settings.kinds import choice, integer, number


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The numbers that shape the network."""

    input_dim: int  # width of the cohort's variable embeddings, which the network does not read
    vocabulary: tuple[str, ...]  # names of its V variables: follow from the data
    forecasts: int = 0  # of the pretraining whose network is kept for the table; 0: none is kept
    summary_width: int = setting(
        integer(1, 65536), default=256, help="variable_summaries: width to which the summaries of a stay are mapped"
    )
    summary_encoding: str = setting(
        choice("normal_scores", "piecewise_linear"),
        default="normal_scores",
        help="variable_summaries: what the network reads of a summary",
    )
    summary_dropout: float = setting(
        number(0, 0.9), default=0.4, help="variable_summaries: dropout probability of single summaries in training"
    )
    variable_dropout: float = setting(
        number(0, 0.9), default=0.05, help="variable_summaries: dropout probability of whole variables in training"
    )
    hidden_dropout: float = setting(
        number(0, 0.9), default=0.3, help="variable_summaries: dropout probability after the first layer"
    )

    def __post_init__(self) -> None:
        if self.forecasts % max(1, len(self.vocabulary)):
            raise ValueError(f"{self.forecasts} forecasts are not as many of each of {len(self.vocabulary)} variables")

    def as_dict(self) -> dict[str, Any]:
        """All sizes by name."""
        return asdict(self) | {"vocabulary": list(self.vocabulary)}


PRESETS: dict[str, dict[str, Any]] = {"full": {}}


def problems(sizes: dict[str, Any]) -> list[str]:
    """Any sizes go together."""
    return []


# Settings of fine-tuning that this architecture was developed with (docs/quality.md), where the user sets no others.
RECIPE: dict[str, Any] = {
    "batch_size": 256,
    "cls_head_lr": 2e-3,
    "lr": 3e-4,  # the first layer has thousands of weights for each variable: at the rate of the head it overfits
    "weight_decay": 0.01,
    "warmup_steps": 50,
    "max_epochs": 12,
    "unfreeze_after": 0,
    "lr_schedule": "cosine",
    "keep": "last",
    "ema_decay": 0.98,
    "head_hidden": 256,
    "head_dropout": 0.3,
    "head_members": 16,
    "tree_models": 4,
}
