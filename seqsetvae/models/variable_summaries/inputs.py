"""The inputs of a prediction from summaries: which there are, what they are of a stay, and what each contributes.

Legend: N stays, V variables, F summaries, C combinations, W numbers of an encoded one, H units of the network, c
columns of the table, P numbers of a backbone beside, I = V F + C + 1 inputs: the summaries, variable by variable, the
combinations, and one for what pretraining has learned, or a backbone beside pools, which belongs to no single variable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from seqsetvae.models.variable_summaries import encoding
from seqsetvae.models.variable_summaries.derived import COMBINATIONS
from seqsetvae.models.variable_summaries.prepare import Summaries, in_units
from seqsetvae.models.variable_summaries.summaries import SUMMARIES
from seqsetvae.ops.gradients import mean_gradient
from seqsetvae.system.errors import InputError

STEPS = 32  # on the path; along it the units change linearly, so few are needed
AT_ONCE = 1024  # points
LEARNED = "pretrained network"  # the last input
LOW, HIGH = 0.25, 0.75  # quantiles of the training stays that have a summary, beyond which its value is low or high
ROUNDED = 1e-5  # of a standard deviation: what is left of 0 in a z-score of single precision
MISSING, IS_LOW, USUAL, IS_HIGH, PRESENT, ABSENT = range(6)  # the last two of a fact, whose value never differs


class Inputs:
    """The inputs of a fitted backbone."""

    def __init__(self, backbone: Any) -> None:
        """`backbone` is that of `variable_summaries`. Raises InputError for one that an earlier version fitted."""
        self.backbone = backbone
        self.presence = torch.cat([backbone.presence.flatten(), backbone.combination_presence])
        if (self.presence < 0).any():
            raise InputError(
                "explain: the checkpoint does not hold how many training stays have each summary, because an earlier "
                "version fitted it. Train the model again (if it was pretrained, pretrain it again too)."
            )
        of_variables = [(name, summary) for name in backbone.sizes.vocabulary for summary in SUMMARIES]
        of_combinations = [(*name.partition(".")[::2],) for name in COMBINATIONS]
        self.names = [*of_variables, *of_combinations, (LEARNED, "")]
        in_table, columns = backbone.in_table.flatten().cpu(), backbone.combination_used.cpu()
        n_learned = backbone.sizes.summary_width + int(backbone.forecasts_in_table().sum())
        of_column = [in_table.nonzero()[:, 0], len(of_variables) + columns.nonzero()[:, 0]]
        if backbone.sizes.forecasts:
            of_column.append(torch.full((n_learned,), len(self.names) - 1))
        self.of_column = torch.cat(of_column).numpy()  # [c] the input that each column of the table is
        used = torch.cat([backbone.used.flatten(), backbone.combination_used]).cpu().numpy()
        self.used = np.append(used, backbone.sizes.forecasts > 0)  # [I]
        self.used[self.of_column] = True

    def describe(self, summaries: Summaries, n_stays: int) -> tuple[np.ndarray, np.ndarray]:
        """Values [N, I] in the units of the variables, NaN where there is none; and MISSING to ABSENT of each."""
        backbone = self.backbone
        mean, std = (each.cpu()[:, None] for each in (backbone.mean, backbone.std))
        values = self._dense(summaries.stay, summaries.variable, summaries.values.cpu().double(), n_stays)
        combinations = summaries.combinations.cpu().double()
        edges = torch.cat([backbone.edges.flatten(0, 1), backbone.combination_edges]).cpu().double()
        flat = torch.cat([values.flatten(1), combinations], dim=1)
        low, high = (encoding.quantile(edges, probability) for probability in (LOW, HIGH))
        level = torch.full(flat.shape, USUAL, dtype=torch.int8)
        level[flat < low], level[flat > high] = IS_LOW, IS_HIGH
        level[flat.isnan()] = MISSING
        of_mean = backbone.edges[:, SUMMARIES.index("mean")]
        is_fact = (of_mean[:, 0] == of_mean[:, -1]) & backbone.used.any(1)  # of variables: all have one value
        is_fact = is_fact.cpu().repeat_interleave(len(SUMMARIES))
        of_facts = level[:, : len(is_fact)][:, is_fact]
        level[:, : len(is_fact)][:, is_fact] = torch.where(of_facts == MISSING, ABSENT, PRESENT).to(level.dtype)
        own = in_units(values, mean, std)
        own = own.masked_fill(own.abs() < ROUNDED * std, 0.0)
        units = torch.cat([own.flatten(1), combinations], dim=1)
        of_learned = np.full((n_stays, 1), np.nan), np.full((n_stays, 1), USUAL)
        return np.hstack([units.numpy(), of_learned[0]]), np.hstack([level.numpy(), of_learned[1]])

    def network_contributions(
        self,
        summaries: Summaries,
        beside: torch.Tensor,
        score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Contribution of each input [N, I] to the score, and the score where they begin [N].

        Integrated gradients from the mean of the encoded inputs over the training stays to those of each stay, and from
        0 to `beside` [N, P], what else the score reads; P may be 0. `score` maps units [R, H] and numbers beside them
        [R, P], stay by stay again and again, to [R].
        """
        n_stays = len(beside)
        backbone = self.backbone
        weight = torch.cat([backbone.weight.flatten(0, 1), backbone.combination_weight]).detach()  # [(I - 1) W, H]
        places = self._dense(summaries.stay, summaries.variable, summaries.places, n_stays).flatten(1, 2)
        encoded = encoding.encode(torch.cat([places, summaries.combination_places], dim=1).to(weight))
        mean = torch.zeros_like(encoded[0])  # places are less their training mean
        mean[:, -1] = self.presence
        difference = encoded - mean  # [N, I - 1, W]
        start = backbone.bias.detach() + mean.flatten() @ weight
        ends = start + difference.flatten(1) @ weight
        n_units = len(start)
        gradient = mean_gradient(
            lambda points: score(points[:, :n_units].relu(), points[:, n_units:]),
            torch.cat([start, torch.zeros_like(beside[0])]),
            torch.cat([ends, beside], dim=1),
            steps=STEPS,
            at_once=AT_ONCE,
        )
        of_units, of_beside = gradient[:, :n_units], (gradient[:, n_units:] * beside).sum(1, keepdim=True)
        of_inputs = (difference * (of_units @ weight.T).view_as(difference)).sum(2)
        with torch.no_grad():
            base = score(start.relu().expand(n_stays, -1), torch.zeros_like(beside))
        return torch.cat([of_inputs, of_beside], dim=1).double().cpu().numpy(), base.double().cpu().numpy()

    def table_contributions(self, contributions: np.ndarray) -> np.ndarray:
        """Contributions of the columns of the table, as those of the inputs: [N, c] → [N, I]."""
        totals = np.zeros((len(self.names), len(contributions)))
        np.add.at(totals, self.of_column, contributions.T)
        return totals.T

    def _dense(self, stay: torch.Tensor, variable: torch.Tensor, of_pairs: torch.Tensor, n_stays: int) -> torch.Tensor:
        """Numbers of the pairs [P, F, ...] as those of the stays, NaN where there is no pair: [N, V, F, ...]."""
        dense = of_pairs.new_full((n_stays, len(self.backbone.sizes.vocabulary), *of_pairs.shape[1:]), torch.nan)
        dense[stay.to(of_pairs.device), variable.to(of_pairs.device)] = of_pairs
        return dense
