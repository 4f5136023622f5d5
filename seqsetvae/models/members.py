"""What a fine-tuned model predicts: a weighted mean of the outputs of its members, the network and others beside it.

Outputs are the log-odds of labels, logits of classes, or numbers in standard deviations, as the task has them.

The others read the backbone's table of summaries. Weights are not negative and add up to 1; they are chosen on
predictions for training stays by members that were trained without these stays.

Legend: N stays of a batch, n stays, c columns of the table, O outputs, o of them, K columns of targets, M members.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from seqsetvae.models.linear import LinearModel, outputs_of
from seqsetvae.models.trees import LARGE, RANDOM, BoostedTrees
from seqsetvae.system.errors import InputError

NETWORK, LINEAR = "network", "linear model"
KINDS_OF_TREES = {"trees": LARGE, "random trees": RANDOM}
TREES = "trees"  # in the hyper_parameters of a checkpoint: the texts of all trees
MEMBERS = "members"  # there: all else of the members; not in checkpoints with the fixed weights
NETWORK_WEIGHT = 0.3  # of the fixed weights, which were chosen on PhysioNet 2012
STEPS = 100  # of the selection; a weight is a multiple of 1 / STEPS before it is shrunk
FEW = 25  # stays of the rarer class with which weights are half what was selected and half equal


Contributions = tuple[np.ndarray, np.ndarray | float]  # of each input, and a base, of all stays or of each


class Fitted(Protocol):
    """What a member beside the network has for some of the outputs."""

    def outputs(self, table: np.ndarray) -> np.ndarray:
        """Outputs of a table: [n, c] → [n, o]."""
        ...

    def contributions(self, table: np.ndarray) -> Contributions:
        """Contributions of the columns [n, c]; with the base they add up to the one output."""
        ...


@dataclass(frozen=True, eq=False)
class Member:
    """One of the models that are averaged."""

    name: str
    weight: float
    models: tuple[Fitted, ...] = ()  # for the outputs one after the other; none: the network
    log_loss: float | None = None  # or what else the loss of the task is, of what the weights were chosen by


@dataclass(frozen=True, eq=False)
class Members:
    """All of them, the network first."""

    of: tuple[Member, ...]

    @classmethod
    def fixed(cls, trees: tuple[BoostedTrees, ...]) -> Members:
        """Network and trees with the fixed weights, as in checkpoints that record no weights."""
        return cls((Member(NETWORK, NETWORK_WEIGHT), Member(TREES, 1 - NETWORK_WEIGHT, trees)))

    def alone(self, name: str) -> Members:
        """One member in place of the average."""
        return Members(tuple(replace(member, weight=float(member.name == name)) for member in self.of))

    def average(self, logits: torch.Tensor, table: Callable[[], np.ndarray]) -> torch.Tensor:
        """The weighted mean of the outputs; those of the network are logits [N, 2] or [N, O], `table` makes [N, c].

        Two logits where the others have one output are those of a binary label, and so are the two of the mean.
        """
        network, *others = self.of
        others = [member for member in others if member.weight]
        if not others and network.weight == 1:
            return logits
        rows = table()
        of_others = [torch.from_numpy(outputs_of(member.models, rows)).to(logits) for member in others]
        one_label = logits.shape[1] == 2 and of_others[0].shape[1] == 1
        own = logits[:, 1:] - logits[:, :1] if one_label else logits
        mean = network.weight * own
        for member, outputs in zip(others, of_others, strict=True):
            if outputs.shape != own.shape:
                raise InputError(
                    f"the members of the checkpoint are damaged ({member.name} has {outputs.shape[1]} outputs, the "
                    f"network {own.shape[1]}). Use another copy."
                )
            mean = mean + member.weight * outputs
        return torch.cat([-mean / 2, mean / 2], dim=1) if one_label else mean

    def contributions(
        self,
        of_network: Contributions,
        table: np.ndarray,
        of_table: Callable[[np.ndarray], np.ndarray],
        unit: tuple[float, float] = (1.0, 0.0),
    ) -> Contributions:
        """Contributions of all inputs to the weighted mean; `of_table` makes them from those of the table's columns.

        `unit`: what outputs are multiplied by, and what is added, as in `of_network`.
        """
        total, base = np.zeros_like(of_network[0]), np.zeros(len(of_network[0]))
        for member in self.of:
            own, own_base = of_network
            if member.models:
                (model,) = member.models
                of_columns, own_base = model.contributions(table)
                own, own_base = of_table(of_columns) * unit[0], own_base * unit[0] + unit[1]
            total, base = total + member.weight * own, base + member.weight * own_base
        return total, base

    def as_plain(self) -> dict[str, Any]:
        """A dictionary for the hyper_parameters of a checkpoint, with long texts apart."""
        texts: list[str] = []
        plain = []
        for member in self.of:
            own: dict[str, Any] = {"name": member.name, "weight": member.weight, "log_loss": member.log_loss}
            of_trees = [model.models for model in member.models if isinstance(model, BoostedTrees)]
            linear = [model.as_plain() for model in member.models if isinstance(model, LinearModel)]
            if of_trees:
                own["texts"] = [len(models) for models in of_trees]
                texts += [text for models in of_trees for text in models]
            own |= {"linear": linear} if linear else {}
            plain.append(
                {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in own.items()}
            )
        is_fixed = all(member.log_loss is None and len(member.models) < 2 for member in self.of)
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
        return Members.fixed((BoostedTrees(saved[TREES]),))
    try:
        return _read(saved[MEMBERS], saved[TREES])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"the members of the checkpoint are damaged ({error}). Use another copy.") from error


def _read(plain: Any, texts: Any) -> Members:
    if not isinstance(texts, list) or not isinstance(plain, list):
        raise ValueError(f"members is {plain!r:.40}, allowed: a list")
    members, begin = [], 0
    for own in plain:
        name, weight, loss = own["name"], own["weight"], own["log_loss"]
        numbers = [weight] if loss is None else [weight, loss]
        if not isinstance(name, str) or not all(isinstance(each, float) and 0 <= each < math.inf for each in numbers):
            raise ValueError(f"{name!r:.40} has the weight {weight!r:.20} and the log loss {loss!r:.20}")
        models: list[Fitted] = [LinearModel.from_plain(each) for each in _listed(own.get("linear", []))]
        for count in _listed(own.get("texts", [])):
            models.append(BoostedTrees(texts[begin : begin + count]))
            begin += count
        members.append(Member(name, weight, tuple(models), loss))
    if [member.name for member in members if not member.models] != [NETWORK] or members[0].models:
        raise ValueError("the first member, and no other, is the network")
    if begin != len(texts) or abs(sum(member.weight for member in members) - 1) > 1e-6:
        raise ValueError("their weights do not add up to 1, or texts of trees belong to none")
    return Members(tuple(members))


def _listed(plain: Any) -> list[Any]:
    return plain if isinstance(plain, list) else [plain]  # of one output, without a list


def chosen_weights(outputs: np.ndarray, loss: Callable[[np.ndarray], np.ndarray], informative: int) -> np.ndarray:
    """Weights [M] of members, from their outputs [M, n, O] for stays that they were not trained on.

    Greedy selection (Caruana et al., 2004): again and again the member is added that lowers the loss of the mean
    most. Few stays of a class cannot tell members apart, so what was selected is shrunk towards equal weights.

    Args:
        outputs: of each member.
        loss: [M, n, O] → [M].
        informative: how many stays tell members apart, such as those of the rarer class.
    """
    counts, total = np.zeros(len(outputs)), np.zeros(outputs.shape[1:])
    for step in range(STEPS):
        best = int(loss((total + outputs) / (step + 1)).argmin())
        counts[best] += 1
        total += outputs[best]
    trust = informative / (informative + FEW)
    return trust * counts / STEPS + (1 - trust) / len(outputs)
