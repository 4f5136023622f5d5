"""Why a score: what each variable of a stay contributes to the one number that a task predicts, such as log-odds.

The contributions and a base add up to the score. They say what the model made of a stay, and nothing about causes.
A model of summaries has a contribution for each summary of each variable: Shapley values of trees, integrated gradients
of the network, both compared with the training stays. SeqSetVAE has one for each event: integrated gradients from the
training mean of its value to the value; that something was measured, and when, belongs to the base.

Legend: R rows of an explanation, K names of variables, J summaries, B copies of a stay, E events of a stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seqsetvae.batches.batch import Batch
from seqsetvae.batches.loading import SplitBatches
from seqsetvae.checkpoint.finetuned import FinetunedModel
from seqsetvae.cohort import Cohort
from seqsetvae.cohort.format import join_ranges
from seqsetvae.models.beside import summaries_part
from seqsetvae.models.variable_summaries.inputs import ABSENT, IS_HIGH, IS_LOW, MISSING, PRESENT, USUAL
from seqsetvae.ops.gradients import mean_gradient

LEVELS = {MISSING: "missing", IS_LOW: "low", USUAL: "usual", IS_HIGH: "high", PRESENT: "present", ABSENT: "absent"}
STEPS = 256  # points on the path of events; where layer norms make the score jump along it, few points miss the jumps
COPIES = 16  # of a stay in a batch: bounds memory
STAYS = 128  # in a batch of summaries
QUARTILE = 0.6745  # of a normal distribution: z-scores beyond it are low or high
OF_VALUES = "mean", "min", "max", "first", "last", "decayed"  # all the same where a variable has one value
SUMMARY_WORDS = {
    **{"count": "number of values", "std": "spread", "min": "lowest", "max": "highest", "decayed": "recent mean"},
    **{"slope": "slope per hour", "variation": "mean step", "hour_first": "hour of the first value"},
    **{"hour_last": "hour of the last value", "hour_min": "hour of the lowest", "hour_max": "hour of the highest"},
}

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Reason:
    """What a variable contributes, with all that is known of it, and which of its summaries or events says most."""

    variable: str
    contribution: float
    summary: str
    value: float
    level: int
    is_known: bool = True  # anything of the variable is

    @property
    def words(self) -> str:
        """Such as `Lactate last 4.1 (high)`."""
        statistic, when = in_words(self.summary)
        if self.level in (PRESENT, ABSENT):
            return f"{self.variable} {LEVELS[self.level]}"
        if np.isnan(self.value):
            if self.level != MISSING:  # no value describes it
                return self.variable
            absent = (statistic, "missing") if self.is_known and not when else ("not measured", when * self.is_known)
            return " ".join(filter(None, (self.variable, *absent)))
        level = f"({LEVELS[self.level]})" * (self.level != USUAL)
        return " ".join(filter(None, (self.variable, statistic, when, f"{self.value:.4g}", level)))

    def __str__(self) -> str:
        return f"{self.words}: {self.contribution:+.2g}"


def in_words(summary: str) -> tuple[str, str]:
    """(what, when) of a summary as a reader says it.

    >>> in_words("last"), in_words("last_12_24h_min"), in_words("first_6h_mean")
    (('last', ''), ('lowest', '12 to 24 h before the end'), ('mean', 'in the first 6 h'))
    """
    match = re.fullmatch(r"(?:last_(\d+)_(\d+)h|first_(\d+)h)_(.*)", summary)
    when = ""
    if match:
        start, end, first, summary = match.groups()
        last = f"in the last {end} h" if start == "0" else f"{start} to {end} h before the end"
        when = f"in the first {first} h" if first else last
    return SUMMARY_WORDS.get(summary, summary.replace("_", " ")), when


@dataclass(frozen=True, eq=False)
class Explanation:
    """The contributions to the score of one stay, or of its beginning."""

    stay_id: int
    minute: float  # of the last set that is known
    score: float
    base: float
    names: Sequence[str]  # [K] variables, and combinations of them
    summaries: Sequence[str]  # [J]
    variable: Ints  # [R] index into names
    summary: Ints  # [R] index into summaries
    at: Floats  # [R] minute of an event, of a summary that of the last set
    value: Floats  # [R] in the variable's own unit
    level: Ints  # [R] a key of LEVELS
    contribution: Floats  # [R]

    @property
    def gap(self) -> float:
        """Score minus base and contributions, which is not 0 because the path has few points."""
        return abs(self.score - self.base - float(self.contribution.sum()))

    @cached_property
    def totals(self) -> Floats:
        """[K] contribution of each variable."""
        return np.bincount(self.variable, self.contribution, len(self.names)).astype(np.float64)

    def reason(self, variable: int, summary: int | None = None) -> Reason:
        """What a variable contributes, with its strongest row of the same sign, or its strongest of a summary."""
        total, rows = float(self.totals[variable]), np.flatnonzero(self.variable == variable)
        if not len(rows):
            return Reason(self.names[variable], 0.0, "", np.nan, MISSING, is_known=False)
        strength = self.contribution[rows] * np.sign(total)
        if summary is not None:
            strength = np.where(self.summary[rows] == summary, np.abs(self.contribution[rows]), -np.inf)
        row = rows[np.argmax(strength)]
        is_known = bool((self.level[rows] != MISSING).any())
        name = "" if row in self._of_one_value(rows) else self.summaries[self.summary[row]]
        own = name, float(self.value[row]), int(self.level[row])
        return Reason(self.names[variable], total, *own, is_known=is_known)

    def _of_one_value(self, rows: Ints) -> Ints:
        """The rows of summaries that are values, if all of them are the same one: it needs no name of a summary."""
        of_values = rows[[self.summaries[each] in OF_VALUES for each in self.summary[rows]]]
        values = self.value[of_values]
        return of_values if len(values) > 1 and np.allclose(values, values[0], rtol=1e-5) else of_values[:0]

    def strongest(self, number: int) -> list[Reason]:
        """The `number` variables with the largest absolute contributions."""
        return [self.reason(int(each)) for each in np.argsort(-np.abs(self.totals), kind="stable")[:number]]


class SummaryExplainer:
    """Explains a model of variable summaries."""

    most_stays = 500  # of a split

    def __init__(self, model: FinetunedModel, variables: torch.Tensor, batches: SplitBatches, cohort: Cohort) -> None:
        """`variables` as from the backbone's variable_table. Raises InputError where an earlier version fitted it."""
        self.model, self.variables, self.batches, self.cohort = model, variables, batches, cohort
        self.part = summaries_part(model.backbone)
        self.inputs, is_beside = self.part.inputs, self.part is not model.backbone
        self.used = np.flatnonzero(np.append(self.inputs.used[:-1], self.inputs.used[-1] | is_beside))
        pairs = [self.inputs.names[each] for each in self.used]
        self.names, self.summaries = (list(dict.fromkeys(each)) for each in zip(*pairs, strict=True))
        self.variable, self.summary = (
            np.array([known.index(each) for each in column])
            for known, column in zip((self.names, self.summaries), zip(*pairs, strict=True), strict=True)
        )

    def explain(self, stay: Ints, n_sets: Ints) -> Iterator[Explanation]:
        """Explain stays of the split, by position, each cut off after so many sets."""
        for start in range(0, len(stay), STAYS):
            chosen = slice(start, start + STAYS)
            batch = self.batches.batch(stay[chosen], n_sets[chosen]).to(self.variables.device)
            value, level = self.inputs.describe(self.part.summaries(batch, self.variables), batch.n_stays)
            contribution, bases = self.model.contributions(batch, self.variables)
            scores = self._scores(batch, self.variables)
            last = batch.minute[batch.sets_per_stay.cumsum(0) - 1].tolist()
            for row, (stay_id, base) in enumerate(zip(batch.stay_id.tolist(), bases.tolist(), strict=True)):
                yield Explanation(
                    stay_id, last[row], scores[row], base, self.names, self.summaries, self.variable, self.summary,
                    np.full(len(self.used), last[row]), value[row, self.used], level[row, self.used],
                    contribution[row, self.used],
                )  # fmt: skip

    @torch.no_grad()
    def _scores(self, batch: Batch, variables: torch.Tensor) -> list[float]:
        return self.model.score(self.model(batch, variables)).tolist()

    def score_without(self, stay: int, names: Sequence[str]) -> float:
        """The score of a stay if these variables had not been measured; a backbone beside reads their mean."""
        left_out = torch.from_numpy(np.isin(self.cohort.vocabulary, names))
        batches = copy(self.batches)
        batches.prepare = self.part.summarizer(torch.where(left_out, -1, self.part.variable_table(self.cohort)))
        batch = batches[np.array([stay])]
        if self.part is not self.model.backbone:
            batch = replace(batch, value=batch.value.masked_fill(left_out[batch.variable], 0))
        return self._scores(batch.to(self.variables.device), self.variables)[0]


class EventExplainer:
    """Explains SeqSetVAE, by the values of events."""

    most_stays = 50  # of a split: hundreds of passes for each

    def __init__(self, model: FinetunedModel, embeddings: torch.Tensor, batches: SplitBatches, cohort: Cohort) -> None:
        self.model, self.embeddings, self.batches, self.cohort = model, embeddings, batches, cohort
        facts = (cohort.mean == 0) & (cohort.std == 1)  # levels of categories, whose value is always 1
        self._is_fact = np.asarray(facts)

    def explain(self, stay: Ints, n_sets: Ints) -> Iterator[Explanation]:
        """Explain stays of the split, by position, each cut off after so many sets."""
        for each, sets in zip(stay.tolist(), n_sets.tolist(), strict=True):
            function = StayScore(self.model, self.embeddings, self.batches, each, sets)
            values = function.values[None]
            start = torch.zeros_like(values[0])
            gradient = mean_gradient(function, start, values, steps=STEPS, at_once=COPIES)
            with torch.no_grad():
                base, score = function(torch.stack([start, values[0]])).tolist()
            z, variable, n_rows = function.values.double().numpy(), function.variable.numpy(), values.shape[1]
            level = np.select([self._is_fact[variable], z < -QUARTILE, z > QUARTILE], [PRESENT, IS_LOW, IS_HIGH], USUAL)
            yield Explanation(
                int(self.batches.split.stay_id[each]), float(function.minute[-1]), score, base, self.cohort.vocabulary,
                ("",), variable, np.zeros(n_rows, dtype=np.int64), function.minute[function.set_of_event],
                function.measured, level, (values * gradient)[0].double().numpy(),
            )  # fmt: skip

    @torch.no_grad()
    def score_without(self, stay: int, names: Sequence[str]) -> float:
        """The score of a stay if the values of these variables were at their training mean."""
        n_sets = int(np.diff(self.batches.split.stay_offset)[stay])
        function = StayScore(self.model, self.embeddings, self.batches, stay, n_sets)
        left_out = torch.from_numpy(np.isin(self.cohort.vocabulary, names))[function.variable]
        return function(function.values.masked_fill(left_out, 0)[None]).item()


class StayScore:
    """The score of one stay as a differentiable function of the values of its events: [B, E] → [B]."""

    def __init__(
        self, model: FinetunedModel, embeddings: torch.Tensor, batches: SplitBatches, stay: int, n_sets: int
    ) -> None:
        """`stay` is the position of the stay in the split; it ends after `n_sets` sets."""
        self.model, self.embeddings, self._batches, self._stay, self._n_sets = model, embeddings, batches, stay, n_sets
        self._copies: dict[int, tuple[Batch, torch.Tensor]] = {}
        one, order = self._copies_of(1)
        self.minute = one.minute.numpy()
        self.values, self.variable = (torch.empty_like(column) for column in (one.value, one.variable))
        self.values[order], self.variable[order] = one.value, one.variable
        split = batches.split
        last = split.set_offset[split.stay_offset[stay] + n_sets]
        self.measured = np.asarray(split.value[last - len(order) : last])  # of a stay that max_sets cuts, the last

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        batch, order = self._copies_of(len(values))
        batch = replace(batch, value=values.flatten()[order]).to(self.embeddings.device)
        return self.model.score(self.model(batch, self.embeddings)).to(values.device)

    def _copies_of(self, copies: int) -> tuple[Batch, torch.Tensor]:
        """(a batch of copies of the stay; for each of its events the index among the copies' events in time order)."""
        if copies not in self._copies:
            batch = self._batches.batch(np.full(copies, self._stay), np.full(copies, self._n_sets))
            sizes = batch.sizes.events_per_set(batch.value.device).numpy()
            row = batch.set_row.numpy()  # of each set, copy by copy in time order, its row in the order by size
            size = sizes[row]
            start = np.empty_like(size)
            start[row] = np.cumsum(size) - size  # of each row, where its set begins among the copies' events
            self._copies[copies] = batch, torch.from_numpy(join_ranges(start, sizes))
        return self._copies[copies]

    @property
    def set_of_event(self) -> Ints:
        """[E] index of each event's set in the stay."""
        batch, _ = self._copies_of(1)
        sizes = batch.sizes.events_per_set(batch.value.device).numpy()
        return np.repeat(np.arange(len(self.minute)), sizes[batch.set_row.numpy()])


Explainer = SummaryExplainer | EventExplainer


def explainer(model: FinetunedModel, known: torch.Tensor, batches: SplitBatches, cohort: Cohort) -> Explainer:
    """The explainer of a model; `known` is how it knows the cohort's variables (`variables.variable_table`)."""
    kind: Any = SummaryExplainer if "inputs" in summaries_part(model.backbone).OFFERS else EventExplainer
    return kind(model, known, batches, cohort)
