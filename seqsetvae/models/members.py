"""What a fine-tuned model predicts: a weighted mean of the log-odds of its members, the network and others beside it.

The others read the backbone's table of summaries. Weights are not negative and add up to 1; they are chosen on
predictions for training stays by members that were trained without these stays.

Legend: N stays of a batch, n stays, c columns of the table, M members.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from seqsetvae.models.linear import LinearModel, log_loss
from seqsetvae.models.trees import LARGE, RANDOM, BoostedTrees
from seqsetvae.system.errors import InputError

NETWORK, LINEAR = "network", "linear model"
KINDS_OF_TREES = {"trees": LARGE, "random trees": RANDOM}
TREES = "trees"  # in the hyper_parameters of a checkpoint: the texts of all trees
MEMBERS = "members"  # there: all else of the members; not in checkpoints with the fixed weights
NETWORK_WEIGHT = 0.3  # of the fixed weights, which were chosen on PhysioNet 2012
STEPS = 100  # of the selection; a weight is a multiple of 1 / STEPS before it is shrunk
FEW = 25  # stays of the rarer class with which weights are half what was selected and half equal


Contributions = tuple[np.ndarray, float]  # of each input, and a base


class Fitted(Protocol):
    """A member beside the network."""

    def log_odds(self, table: np.ndarray) -> np.ndarray:
        """[n, c] → [n]."""
        ...

    def contributions(self, table: np.ndarray) -> Contributions:
        """Contributions of the columns [n, c]; with the base they add up to the log-odds."""
        ...


@dataclass(frozen=True, eq=False)
class Member:
    """One of the models that are averaged."""

    name: str
    weight: float
    model: Fitted | None  # None: the network
    log_loss: float | None = None  # of the predictions that the weights were chosen on


@dataclass(frozen=True, eq=False)
class Members:
    """All of them, the network first."""

    of: tuple[Member, ...]

    @classmethod
    def fixed(cls, trees: BoostedTrees) -> Members:
        """Network and trees with the fixed weights, as in checkpoints that record no weights."""
        return cls((Member(NETWORK, NETWORK_WEIGHT, None), Member(TREES, 1 - NETWORK_WEIGHT, trees)))

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

    def contributions(
        self, of_network: Contributions, table: np.ndarray, of_table: Callable[[np.ndarray], np.ndarray]
    ) -> Contributions:
        """Contributions of all inputs to the weighted mean; `of_table` makes them from those of the table's columns."""
        found, base = np.zeros_like(of_network[0]), 0.0
        for member in self.of:
            own, own_base = of_network
            if member.model is not None:
                of_columns, own_base = member.model.contributions(table)
                own = of_table(of_columns)
            found, base = found + member.weight * own, base + member.weight * own_base
        return found, base

    def as_plain(self) -> dict[str, Any]:
        """A dictionary for the hyper_parameters of a checkpoint, with long texts apart."""
        texts: list[str] = []
        plain = []
        for member in self.of:
            own: dict[str, Any] = {"name": member.name, "weight": member.weight, "log_loss": member.log_loss}
            if isinstance(member.model, BoostedTrees):
                own["texts"] = len(member.model.models)
                texts += member.model.models
            elif isinstance(member.model, LinearModel):
                own["linear"] = member.model.as_plain()
            plain.append(own)
        is_fixed = [member.log_loss for member in self.of] == [None, None]
        return {TREES: texts} | ({} if is_fixed else {MEMBERS: plain})

    def said(self) -> dict[str, dict[str, float | None]]:
        """Weight, and log loss out of fold, by name."""
        return {member.name: {"weight": member.weight, "log_loss": member.log_loss} for member in self.of}

    def __str__(self) -> str:
        return ", ".join(f"{member.name} {member.weight:.2f}" for member in self.of)

    def __deepcopy__(self, memo: Any) -> Members:
        """Itself: members never change, and averaging of weights copies the module that holds them."""
        return self


def read_members(saved: Mapping[str, Any]) -> Members | None:
    """The members of a checkpoint; None: it has the network alone. Raises InputError if they are damaged."""
    if TREES not in saved:
        return None
    if MEMBERS not in saved:
        return Members.fixed(BoostedTrees(saved[TREES]))
    try:
        return _read(saved[MEMBERS], saved[TREES])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"the members of the checkpoint are damaged ({error}). Use another copy.") from error


def _read(plain: Any, texts: Any) -> Members:
    if not isinstance(texts, list) or not isinstance(plain, list):
        raise ValueError(f"members is {plain!r:.40}, allowed: a list")
    found, begin = [], 0
    for own in plain:
        name, weight, loss = own["name"], own["weight"], own["log_loss"]
        numbers = [weight] if loss is None else [weight, loss]
        if not isinstance(name, str) or not all(isinstance(each, float) and 0 <= each < math.inf for each in numbers):
            raise ValueError(f"{name!r:.40} has the weight {weight!r:.20} and the log loss {loss!r:.20}")
        model: Fitted | None = None
        if "texts" in own:
            end = begin + own["texts"]
            model, begin = BoostedTrees(texts[begin:end]), end
        elif "linear" in own:
            model = LinearModel.from_plain(own["linear"])
        found.append(Member(name, weight, model, loss))
    if [member.name for member in found if member.model is None] != [NETWORK] or found[0].model is not None:
        raise ValueError("the first member, and no other, is the network")
    if begin != len(texts) or abs(sum(member.weight for member in found) - 1) > 1e-6:
        raise ValueError("their weights do not add up to 1, or texts of trees belong to none")
    return Members(tuple(found))


def chosen_weights(log_odds: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Weights [M] of members, from their log-odds [M, n] for stays that they were not trained on.

    Greedy selection (Caruana et al., 2004): again and again the member is added that lowers the log loss of the mean
    most. Few stays of a class cannot tell members apart, so what was selected is shrunk towards equal weights.
    """
    counts, total = np.zeros(len(log_odds)), np.zeros(log_odds.shape[1])
    for step in range(STEPS):
        best = int(log_loss((total + log_odds) / (step + 1), label).argmin())
        counts[best] += 1
        total += log_odds[best]
    rarer = np.bincount(label.astype(np.int64), minlength=2).min()
    trust = rarer / (rarer + FEW)
    return trust * counts / STEPS + (1 - trust) / len(log_odds)
