"""What a fine-tuned model predicts: a weighted mean of the log-odds of its members, the network and others beside it.

The others read the backbone's table of summaries: boosted trees, and whatever else has `log_odds` and `as_plain`.
Weights are not negative and add up to 1.

Legend: N stays of a batch, n stays, c columns of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from seqsetvae.models.trees import BoostedTrees

NETWORK = "network"
TREES = "trees"  # in the hyper_parameters of a checkpoint: the texts of all trees
MEMBERS = "members"  # there: weights, and which texts are whose; not in checkpoints with the fixed weights
NETWORK_WEIGHT = 0.3  # of the fixed weights, which were chosen on PhysioNet 2012


class Fitted(Protocol):
    """A member beside the network."""

    def log_odds(self, table: np.ndarray) -> np.ndarray:
        """[n, c] → [n]."""
        ...


@dataclass(frozen=True, eq=False)
class Member:
    """One of the models that are averaged."""

    name: str
    weight: float
    model: Fitted | None  # None: the network


@dataclass(frozen=True, eq=False)
class Members:
    """All of them, the network first."""

    of: tuple[Member, ...]

    @classmethod
    def fixed(cls, trees: BoostedTrees) -> Members:
        """Network and trees with the fixed weights, as in checkpoints that record no weights."""
        return cls((Member(NETWORK, NETWORK_WEIGHT, None), Member(TREES, 1 - NETWORK_WEIGHT, trees)))

    @property
    def weights(self) -> dict[str, float]:
        """By name."""
        return {member.name: member.weight for member in self.of}

    def alone(self, name: str) -> Members:
        """One member in place of the average."""
        return Members(tuple(replace(member, weight=float(member.name == name)) for member in self.of))

    def average(self, logits: torch.Tensor, table: Callable[[], np.ndarray]) -> torch.Tensor:
        """Logits [N, 2] of the weighted mean log-odds; `logits` [N, 2] are the network's, `table` makes [N, c]."""
        network, *others = self.of
        mean = network.weight * (logits[:, 1] - logits[:, 0])
        others = [member for member in others if member.weight]
        if others:
            rows = table()
            for member in others:
                assert member.model is not None, "only the network, which is the first, reads no table"
                mean = mean + member.weight * torch.from_numpy(member.model.log_odds(rows)).to(logits)
        return torch.stack([-mean / 2, mean / 2], dim=1)

    def as_plain(self) -> dict[str, Any]:
        """For the hyper_parameters of a checkpoint."""
        (trees,) = (member.model for member in self.of if isinstance(member.model, BoostedTrees))
        return {TREES: trees.as_plain()}

    def __deepcopy__(self, memo: Any) -> Members:
        """They never change, and averaging of weights copies the module that holds them."""
        return self


def read_members(saved: Mapping[str, Any]) -> Members | None:
    """Those of a checkpoint; None: it has the network alone. Raises InputError if they are damaged."""
    return Members.fixed(BoostedTrees(saved[TREES])) if TREES in saved else None
