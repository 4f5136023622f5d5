"""The sizes of the network on variable summaries, as settings, and its recipe. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from seqsetvae.settings.declare import setting
from seqsetvae.settings.kinds import integer, number

OFFERS = frozenset({"table", "inputs"})  # see models/backbone.py


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The numbers that shape the network."""

    input_dim: int  # width of the cohort's variable embeddings, which the network does not read
    vocabulary: tuple[str, ...]  # names of its V variables: follow from the data
    forecasts: int = 0  # of the pretraining whose network is kept for the table; 0: none is kept
    summary_width: int = setting(
        integer(1, 65536), default=256, help="variable_summaries: width to which the summaries of a stay are mapped"
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
        """All sizes by name, and the encoding: earlier versions had others."""
        return asdict(self) | {"vocabulary": list(self.vocabulary), "summary_encoding": "normal_scores"}


PRESETS: dict[str, dict[str, Any]] = {"full": {}}


def problems(sizes: dict[str, Any]) -> list[str]:
    """No problems: any sizes go together."""
    return []


FEW_STAYS = 5_120  # labelled training stays, 20 batches of RECIPE; with fewer, see `recipe_for` and `shrinkage_for`
LEAST_BATCHES, LEAST_BATCH = 20, 16
SHRINKAGE = 0.2


def recipe_for(n_stays: int) -> dict[str, Any]:
    """Settings of RECIPE that depend on the number of labelled training stays: an epoch has some 20 batches.

    >>> [recipe_for(n)["batch_size"] for n in (30, 420, 6000)]
    [16, 21, 256]
    """
    return {"batch_size": max(LEAST_BATCH, min(RECIPE["batch_size"], n_stays // LEAST_BATCHES))}


def shrinkage_for(n_stays: int) -> float:
    """Shrinkage of the weights of a summary in a step, as a share of the learning rate; 0: none.

    A few hundred stays cannot tell which of as many summaries matter unless most are taken not to (group lasso).

    >>> [round(shrinkage_for(n), 3) for n in (0, 420, 2560, 6000)]
    [0.2, 0.184, 0.1, 0.0]
    """
    return SHRINKAGE * max(0.0, 1 - n_stays / FEW_STAYS)


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
    "average": "folds",
    "min_count": 0,  # values are read by their place among those of the training stays, however few
}
