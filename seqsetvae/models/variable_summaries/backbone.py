"""The network on variable summaries: each summary is encoded, mapped, and summed over all variables of the stay.

Legend: N stays, P pairs (stay, variable), V variables, F = 35 summaries of a pair, C combinations, W = Q + 1 numbers of
an encoded summary (encoding.py), K quantiles, H width, A forecasts. Only variables that occur in a stay cost anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import seqsetvae.models.variable_summaries.encoding as encoding  # not from the package: it imports this file
from seqsetvae.batches.batch import Batch, map_tensors
from seqsetvae.cohort import Cohort
from seqsetvae.models.backbone import BackboneBase
from seqsetvae.models.variable_summaries.derived import COMBINATIONS
from seqsetvae.models.variable_summaries.inputs import Inputs
from seqsetvae.models.variable_summaries.prepare import (
    KeptSummaries,
    Placer,
    Summaries,
    Summarizer,
    measured,
    named_rows,
)
from seqsetvae.models.variable_summaries.relevance import Relevance, relevance
from seqsetvae.models.variable_summaries.sizes import OFFERS, Sizes, shrinkage_for
from seqsetvae.models.variable_summaries.summaries import SUMMARIES, common_length, stay_hours
from seqsetvae.ops.grouped import grouped_products

MAX_COLUMNS = 5_000  # summaries in `table`: those that most training stays have; 128 MB for 6,400 stays
CLIPPED = 0.001  # share of a variable's training values beyond each bound: typing errors (pH 735) are among them
SMALL = 0.1  # of the usual initial weights, where they shrink
LARGE = 20.0  # times the square of its relevance, which those of a summary have in addition
DECIDES = 0.5  # relevance from which a summary is never dropped
COUNT = SUMMARIES.index("count")
FITTED = ("edges", "center", "used")
NOT_KNOWN = -1.0  # the share of training stays that have a summary, in checkpoints of earlier versions
LEARNED = ("learned_weight", "learned_combination_weight", "learned_bias", "forecast_weight", "forecast_bias")


class Backbone(BackboneBase):
    """A patient's events → summaries → one vector. `fit` must come before training."""

    architecture = "variable_summaries"
    OFFERS = OFFERS
    bounds: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    length: torch.Tensor
    edges: torch.Tensor
    center: torch.Tensor
    used: torch.Tensor
    in_table: torch.Tensor
    combination_edges: torch.Tensor
    combination_center: torch.Tensor
    combination_used: torch.Tensor
    presence: torch.Tensor
    combination_presence: torch.Tensor
    learned_weight: torch.Tensor
    learned_combination_weight: torch.Tensor
    learned_bias: torch.Tensor
    forecast_weight: torch.Tensor
    forecast_bias: torch.Tensor
    kept: torch.Tensor | None
    combinations_kept: torch.Tensor | None

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes, self.shrinkage = sizes, 0.0
        n_variables, n_summaries, n_combinations = len(sizes.vocabulary), len(SUMMARIES), len(COMBINATIONS)
        width, encoded, quantiles = sizes.summary_width, encoding.WIDTH, len(encoding.PROBABILITIES)
        self.weight = nn.Parameter(torch.empty(n_variables, n_summaries * encoded, width))
        self.combination_weight = nn.Parameter(torch.empty(n_combinations * encoded, width))
        self.bias = nn.Parameter(torch.zeros(width))
        # What is fitted on training stays is saved with the weights.
        self.register_buffer("bounds", torch.tensor([[-torch.inf], [torch.inf]]).repeat(1, n_variables).double())
        self.register_buffer("mean", torch.zeros(n_variables, dtype=torch.float64))
        self.register_buffer("std", torch.ones(n_variables, dtype=torch.float64))
        self.register_buffer("length", torch.zeros((), dtype=torch.float64))  # hours, see `common_length`
        for prefix, shape in (("", (n_variables, n_summaries)), ("combination_", (n_combinations,))):
            self.register_buffer(f"{prefix}edges", torch.zeros(*shape, quantiles))
            self.register_buffer(f"{prefix}center", torch.zeros(*shape, encoding.PLACES))
            self.register_buffer(f"{prefix}used", torch.zeros(*shape, dtype=torch.bool))
            self.register_buffer(f"{prefix}presence", torch.full(shape, NOT_KNOWN))
        self.register_buffer("in_table", torch.zeros(n_variables, n_summaries, dtype=torch.bool))
        for name in (
            "kept",
            "combinations_kept",
        ):  # probabilities in training, see `start_small`; None: the same for all
            self.register_buffer(name, None, persistent=False)
        if sizes.forecasts:
            self._keep_learned(torch.zeros(sizes.forecasts, width), torch.zeros(sizes.forecasts))
        self._initialize(n_variables * n_summaries + n_combinations)

    def _initialize(self, numbers: int) -> None:
        """Uniform weights as those of nn.Linear for so many summaries of a stay."""
        bound = (numbers * encoding.WIDTH) ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def start_small(self, n_stays: int, batches: Iterable[Batch], variables: torch.Tensor) -> None:
        """Where few training stays have labels, let the weights begin small and shrink in each step (`shrinkage_for`).

        Those of a summary that alone explains the label begin large, and it is not dropped: else the network would mix
        it with those that resemble it, such as a last value with the means of the last hours.
        `batches` are of these stays; with many they are not read.
        """
        self.shrinkage = shrinkage_for(n_stays)
        if not self.shrinkage:
            return
        relevances = self._relevance(list(batches), variables)
        for weight, of_each in zip((self.weight, self.combination_weight), relevances, strict=True):
            groups = weight.detach().view(of_each.numel(), -1)
            groups.mul_((SMALL + LARGE * of_each.square()).reshape(-1, 1).to(groups))
        dropout = self.sizes.summary_dropout
        self.kept, self.combinations_kept = (
            1 - dropout * (1 - of_each / DECIDES).clamp_min(0)[..., None] for of_each in relevances
        )

    def _relevance(self, batches: list[Batch], variables: torch.Tensor) -> Relevance:
        """`relevance` of each summary and combination; 0 where the task is not one binary label."""
        if any(batch.target is not None for batch in batches):
            return torch.zeros(self.used.shape), torch.zeros(self.combination_used.shape)
        summaries = [map_tensors(self.summaries(batch, variables), torch.Tensor.cpu) for batch in batches]
        return relevance(summaries, [batch.label for batch in batches], len(self.used), self.n_inputs)

    @torch.no_grad()
    def after_step(self, lr: float) -> None:
        """Shrink the weights of each summary towards 0 (group lasso), which weights that no label supports reach."""
        if not self.shrinkage:
            return
        for weight in (self.weight, self.combination_weight):
            groups = weight.view(-1, encoding.WIDTH * weight.shape[-1])
            length = groups.norm(dim=1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
            groups.mul_((1 - lr * self.shrinkage * groups.shape[1] ** 0.5 / length).clamp_min(0))

    @property
    def n_inputs(self) -> int:
        """Number of summaries and combinations that the network reads."""
        return int(self.used.sum() + self.combination_used.sum())

    def has_no_input(self) -> bool:
        return self.n_inputs == 0

    def fit(self, cohort: Cohort, batches: Iterable[Batch]) -> None:
        """Bounds of the values and quantiles of the summaries, from training stays, all of which are held in memory.

        Args:
            cohort: whose vocabulary is the model's.
            batches: of training stays.
        """
        self.mean, self.std = (_known(numbers, other) for numbers, other in ((cohort.mean, 0.0), (cohort.std, 1.0)))
        taken = list(batches)
        self.length = torch.tensor(
            common_length(torch.cat([stay_hours(batch) for batch in taken])), dtype=torch.float64
        )
        self._fit_bounds(torch.cat([batch.variable for batch in taken]), torch.cat([batch.value for batch in taken]))
        summarizer = self.summarizer(torch.arange(len(self.sizes.vocabulary)))
        summaries = [summarizer(batch) for batch in taken]
        variable, values = (torch.cat([getattr(each, name) for each in summaries]) for name in ("variable", "values"))
        order = variable.argsort(stable=True)
        counts, n_stays = torch.bincount(variable, minlength=len(self.mean)).tolist(), sum(b.n_stays for b in taken)
        n_present = torch.zeros(self.used.shape)
        for row, of_variable in enumerate(values[order].split(counts)):
            self.edges[row], self.center[row], self.used[row] = encoding.fit(of_variable, n_stays)
            n_present[row] = torch.isfinite(of_variable).sum(0) * ~encoding.repeated(of_variable, self.edges[row])
            self.presence[row] = (torch.isfinite(of_variable) & self.used[row]).sum(0) / n_stays
        self.in_table = most_present(n_present * self.used, MAX_COLUMNS)
        combined = torch.cat([each.combinations for each in summaries])
        self.combination_edges, self.combination_center, self.combination_used = encoding.fit(combined)
        self.combination_presence = (torch.isfinite(combined) & self.combination_used).sum(0).to(combined) / n_stays
        self._initialize(max(1, self.n_inputs))

    def _fit_bounds(self, variable: torch.Tensor, value: torch.Tensor) -> None:
        order = variable.argsort(stable=True)
        counts = torch.bincount(variable, minlength=len(self.mean)).tolist()
        for row, values in enumerate(value[order].split(counts)):
            if len(values):
                self.bounds[:, row] = torch.tensor(bounds_of(values.double().numpy()))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Fill in buffers that checkpoints of earlier versions lack and only contributions need."""
        for name in ("presence", "combination_presence"):
            state_dict.setdefault(prefix + name, torch.full_like(getattr(self, name), NOT_KNOWN))
        super()._load_from_state_dict(state_dict, prefix, *others)

    def variable_table(self, cohort: Cohort) -> torch.Tensor:
        """Row in the model of each variable of a cohort, -1 where the model does not know it: [V of the cohort]."""
        rows = {name: row for row, name in enumerate(self.sizes.vocabulary)}
        return torch.tensor([rows.get(name, -1) for name in cohort.vocabulary])

    def unused_variables(self) -> dict[str, str]:
        """The variables of which no summary is used, or not their values although these vary, and why."""
        nothing = "no summary of it differs between enough training stays"
        count = "few training stays have it: how often it occurs is used, its values are not"
        mean = SUMMARIES.index("mean")
        has_values = self.used[:, mean] | (self.edges[:, mean, 0] == self.edges[:, mean, -1])
        rows = zip(self.sizes.vocabulary, self.used.any(dim=1).tolist(), has_values.tolist(), strict=True)
        return {name: count if any_used else nothing for name, any_used, whole in rows if not (any_used and whole)}

    def summarizer(self, variables: torch.Tensor) -> Summarizer:
        """Makes the summaries of batches on the host; `variables` as from `variable_table`."""
        names = self.sizes.vocabulary
        bounds, mean, std = (buffer.detach().cpu().clone() for buffer in (self.bounds, self.mean, self.std))
        length = float(self.length)
        return Summarizer(
            variables.cpu(), bounds, mean, std, named_rows(names), measured(names), length, self._placer()
        )

    def kept_summarizer(self, variables: torch.Tensor) -> KeptSummaries:
        """A summarizer for whole stays that are read in every epoch."""
        return KeptSummaries(self.summarizer(variables))

    def _placer(self) -> Placer:
        fitted = (
            getattr(self, prefix + name).detach().cpu().clone() for prefix in ("", "combination_") for name in FITTED
        )
        edges, center, used, *of_combinations = fitted
        return Placer((edges, center, used), tuple(of_combinations))

    def summaries(self, batch: Batch, variables: torch.Tensor) -> Summaries:
        """The summaries that the data loader has made, or else new ones."""
        if isinstance(batch.prepared, Summaries):
            return batch.prepared
        device = self.bias.device
        return map_tensors(self.summarizer(variables)(batch.to("cpu")), lambda tensor: tensor.to(device))

    def pooled(self, batch: Batch, variables: torch.Tensor, pooling: str) -> torch.Tensor:
        """[N, H]. The summaries describe the whole stay, so every pooling is the same."""
        hidden = self._hidden(
            self.summaries(batch, variables), self.weight, self.combination_weight, self.bias, drops=self.training
        )
        return F.dropout(hidden, self.sizes.hidden_dropout, self.training)

    def _hidden(
        self,
        summaries: Summaries,
        weight: torch.Tensor,
        combination_weight: torch.Tensor,
        bias: torch.Tensor,
        drops: bool,
    ) -> torch.Tensor:
        """The units after the ReLU, with these weights, computed in their number type: [N, H]."""
        total = bias + self._sum_combinations(summaries.combination_places, combination_weight, drops)
        if summaries.pairs_per_variable:
            of_pairs = self._sum_pairs(summaries, weight, total.dtype, drops)  # products may be bfloat16
            total = total.index_add(0, summaries.stay, of_pairs.to(total.dtype))
        return F.relu(total)

    def pooled_width(self, pooling: str) -> int:
        """H."""
        return self.sizes.summary_width

    def _sum_pairs(self, summaries: Summaries, weight: torch.Tensor, dtype: torch.dtype, drops: bool) -> torch.Tensor:
        """What each pair adds: [P, H]; one product for each variable that occurs."""
        kept = None if self.kept is None else self.kept[summaries.variable]
        encoded = self._dropped(encoding.encode(summaries.places.to(dtype)), drops, kept)
        if drops and self.sizes.variable_dropout:
            kept = torch.rand(len(encoded), 1, 1, device=encoded.device) >= self.sizes.variable_dropout
            encoded = encoded * kept  # not scaled: a variable that is not measured is not made up for either
        return grouped_products(encoded.flatten(1), weight.to(dtype), summaries.pairs_per_variable)

    def _sum_combinations(self, places: torch.Tensor, weight: torch.Tensor, drops: bool) -> torch.Tensor:
        """What the combinations add: [N, C, Q] → [N, H]."""
        encoded = self._dropped(encoding.encode(places.to(weight.dtype)), drops, self.combinations_kept)
        return encoded.flatten(1) @ weight

    def _dropped(self, encoded: torch.Tensor, drops: bool, kept: torch.Tensor | None) -> torch.Tensor:
        """Drop single summaries with all their numbers in training, and scale the others: [R, F, W].

        `kept` is the probability that each is not, [F, 1] or [R, F, 1].
        """
        if not drops or not self.sizes.summary_dropout:
            return encoded
        keep = 1 - self.sizes.summary_dropout if kept is None else kept.to(encoded.dtype)
        return encoded * (torch.rand(*encoded.shape[:2], 1, device=encoded.device) < keep) / keep

    def keep_pretrained(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Keep what forecasting has learned as columns of `table`, which fine-tuning does not change.

        `weights` are those of the checkpoint whose weights the network has; without a forecast nothing is kept.
        """
        if "objective.head.weight" in weights:
            self._keep_learned(weights["objective.head.weight"], weights["objective.head.bias"])
            self.sizes = replace(self.sizes, forecasts=len(self.forecast_bias))

    def drop_pretrained(self) -> None:
        """Drop what `keep_pretrained` kept, which is as large as the network and which only trees read."""
        if self.sizes.forecasts:
            for name in LEARNED:
                delattr(self, name)
            self.sizes = replace(self.sizes, forecasts=0)

    def _keep_learned(self, forecast_weight: torch.Tensor, forecast_bias: torch.Tensor) -> None:
        """A copy of the network as it is, and the linear map of its forecasts: [A, H], [A]."""
        values = (self.weight, self.combination_weight, self.bias, forecast_weight, forecast_bias)
        for name, of_name in zip(LEARNED, values, strict=True):
            self.register_buffer(name, of_name.detach().clone())

    @property
    def inputs(self) -> Inputs:
        """What of a stay its prediction is made from; raises InputError where `fit` was that of an earlier version."""
        return Inputs(self)

    def table(self, batch: Batch, variables: torch.Tensor) -> np.ndarray:
        """What other models can learn from, NaN where there is none: float32 [N, columns].

        The summaries and, of a network that was pretrained by forecasting, its units and forecasts.
        """
        summaries = map_tensors(self.summaries(batch, variables), torch.Tensor.cpu)
        columns = self._columns()
        wide = np.full((batch.n_stays, int(columns.max()) + 1 if columns.numel() else 0), np.nan, dtype=np.float32)
        place = columns[summaries.variable]
        inside = place >= 0
        stay = summaries.stay[:, None].expand_as(place)
        wide[stay[inside].numpy(), place[inside].numpy()] = summaries.values[inside].numpy()
        combinations = summaries.combinations[:, self.combination_used.cpu()].numpy()
        return np.hstack([wide, combinations, *self._learned(batch, variables)], dtype=np.float32)

    @torch.no_grad()
    def _learned(self, batch: Batch, variables: torch.Tensor) -> list[np.ndarray]:
        """Units and forecasts [N, H + A] of the network as it was pretrained, or nothing.

        In float64: trees compare them with thresholds, which the last bits of a batch must not decide.
        """
        if not self.sizes.forecasts:
            return []
        summaries = self._in_double_precision(self.summaries(batch, variables))
        with torch.autocast(summaries.values.device.type, enabled=False):
            combination_weight, bias = self.learned_combination_weight.double(), self.learned_bias.double()
            hidden = self._hidden(summaries, self.learned_weight, combination_weight, bias, drops=False)
            forecasts = F.linear(hidden, self.forecast_weight.double(), self.forecast_bias.double())
        return [torch.hstack([hidden, forecasts[:, self.forecasts_in_table()]]).cpu().numpy()]

    def _in_double_precision(self, summaries: Summaries) -> Summaries:
        """Replace places by those that are computed in float64 from the same values."""
        values, combinations = (tensor.cpu().double() for tensor in (summaries.values, summaries.combinations))
        placer, device = self._placer(), summaries.values.device
        return replace(
            summaries,
            places=placer.place_summaries(values, summaries.variable.cpu()).to(device),
            combination_places=placer.place_combinations(combinations).to(device),
        )

    def forecasts_in_table(self) -> torch.Tensor:
        """Which forecasts are columns, a bounded number: those of the variables whose mean is a column, [A]."""
        of_each = self.sizes.forecasts // len(self.sizes.vocabulary)
        return self.in_table[:, SUMMARIES.index("mean")].repeat_interleave(of_each)

    def _columns(self) -> torch.Tensor:
        """Column of each summary in `table`, -1 for those that are not in it: [V, F]."""
        inside = self.in_table.cpu()
        return torch.where(inside, inside.flatten().cumsum(0).reshape(inside.shape) - 1, -1)


def _known(numbers: np.ndarray, otherwise: float) -> torch.Tensor:
    return torch.from_numpy(np.where(np.isnan(numbers), otherwise, numbers))


def bounds_of(values: np.ndarray) -> tuple[float, float]:
    """The next value of these beyond each of their quantiles CLIPPED and 1 - CLIPPED.

    At the quantiles themselves the rare value of a flag that is nearly always 0 would be set to 0.
    """
    low, high = np.quantile(values, [CLIPPED, 1 - CLIPPED])
    return values.max(where=values < low, initial=values.min()), values.min(where=values > high, initial=values.max())


def most_present(n_present: torch.Tensor, most: int) -> torch.Tensor:
    """Which summaries are in the table: at most so many, and none that no training stay has.

    The counts of variables come first, then the others, each from those that most training stays have to the rarest.
    `n_present` [V, F] counts the training stays that have each summary.
    """
    before_others = n_present.clone()
    before_others[:, COUNT] += n_present.max() * (n_present[:, COUNT] > 0)
    chosen = before_others.flatten().argsort(descending=True, stable=True)[:most]
    inside = torch.zeros(n_present.numel(), dtype=torch.bool)
    inside[chosen] = True
    return inside.reshape(n_present.shape) & (n_present > 0)
