"""How much each event of a stay contributes to its logit: integrated gradients over the values, by captum.

The path leads from the stay with every value at its training mean (a z-score of 0) to the stay as it is, so the
contributions add up to the difference of the two logits. That something was measured, and when, is on both ends.

Legend: E events of a stay in time order, B copies of the stay with different values, K sets of the stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seqsetvae.batches.batch import Batch
from seqsetvae.batches.loading import SplitBatches
from seqsetvae.checkpoint.finetuned import FinetunedModel
from seqsetvae.cohort.format import ranges
from seqsetvae.system.errors import InputError

STEPS = 256  # points on the path; where layer norms make the logit jump along it, few points miss the jumps
COPIES = 16  # of the stay in a batch: bounds memory
DELETED = 0.1  # share of the events that the deletion test sets to their training mean
RANDOM_DRAWS = 10  # of as many events, to compare with

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Explanation:
    """The contributions of the events of one stay."""

    stay_id: int
    set_index: NDArray[np.int64]  # [E] from 0 in the stay
    minute: Floats  # [E]
    variable: NDArray[np.int64]  # [E] index into the vocabulary
    value: Floats  # [E] in the variable's own unit
    contribution: Floats  # [E] to the logit
    logit: float
    logit_at_mean: float  # with every value at its training mean

    @property
    def gap(self) -> float:
        """By how much the contributions miss the difference of the two logits, because the path has few points."""
        return abs(self.logit - self.logit_at_mean - float(self.contribution.sum()))


class StayLogit:
    """The logit of one stay as a differentiable function of the values of its events: [B, E] → [B]."""

    def __init__(self, model: FinetunedModel, embeddings: torch.Tensor, batches: SplitBatches, stay: int) -> None:
        """`stay` is the position of the stay in the split."""
        self.model, self.embeddings, self._batches, self._stay = model, embeddings, batches, stay
        self._copies: dict[int, tuple[Batch, torch.Tensor]] = {}
        one, order = self._copies_of(1)
        self.set_index, self.minute = one.set_index.numpy(), one.minute.numpy()
        self.values, self.variable = (torch.empty_like(column) for column in (one.value, one.variable))
        self.values[order], self.variable[order] = one.value, one.variable
        split = batches.split
        last = split.set_offset[split.stay_offset[stay + 1]]
        self.measured = np.asarray(split.value[last - len(order) : last])  # of a stay that max_sets cuts, the last

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        batch, order = self._copies_of(len(values))
        batch = replace(batch, value=values.flatten()[order]).to(self.embeddings.device)
        return self.model(batch, self.embeddings).double().diff(dim=1).squeeze(1)

    def _copies_of(self, copies: int) -> tuple[Batch, torch.Tensor]:
        """(a batch of copies of the stay; for each of its events the index among the copies' events in time order)."""
        if copies not in self._copies:
            batch = self._batches[np.full(copies, self._stay)]
            sizes = batch.sizes.events_per_set(batch.value.device).numpy()
            row = batch.set_row.numpy()  # of each set, copy by copy in time order, its row in the order by size
            size = sizes[row]
            start = np.empty_like(size)
            start[row] = np.cumsum(size) - size  # of each row, where its set begins among the copies' events
            self._copies[copies] = batch, torch.from_numpy(ranges(start, sizes))
        return self._copies[copies]

    @property
    def set_of_event(self) -> NDArray[np.int64]:
        """[E] index of each event's set in the stay."""
        batch, _ = self._copies_of(1)
        sizes = batch.sizes.events_per_set(batch.value.device).numpy()
        return np.repeat(np.arange(len(self.minute)), sizes[batch.set_row.numpy()])


def integrated_gradients() -> Any:
    """The class of captum. Raises InputError where captum is not installed."""
    try:
        from captum.attr import IntegratedGradients
    except ImportError:
        raise InputError("explain: needs the package captum; install it with: pip install captum") from None
    return IntegratedGradients


def explain(function: StayLogit, stay_id: int) -> Explanation:
    """Integrated gradients of the logit of a stay over the values of its events.

    Raises:
        InputError: captum is not installed.
    """
    values = function.values[None]
    contribution = integrated_gradients()(function).attribute(
        values, torch.zeros_like(values), n_steps=STEPS, internal_batch_size=COPIES, method="riemann_middle"
    )
    with torch.no_grad():
        at_mean, as_it_is = function(torch.cat([torch.zeros_like(values), values])).tolist()
    of_event = function.set_of_event
    return Explanation(
        stay_id=stay_id,
        set_index=function.set_index[of_event],
        minute=function.minute[of_event],
        variable=function.variable.numpy(),
        value=function.measured,
        contribution=contribution[0].detach().double().numpy(),
        logit=as_it_is,
        logit_at_mean=at_mean,
    )


@torch.no_grad()
def deletion_test(function: StayLogit, explanation: Explanation, seed: int) -> tuple[float, float]:
    """Change of the logit when a tenth of the events are set to their training mean.

    Returns:
        (that of the events that contribute most, the mean over RANDOM_DRAWS draws of as many random events); the
        contributions are faithful if the first is clearly larger.
    """
    n_events = len(explanation.contribution)
    number = max(1, round(DELETED * n_events))
    rng = np.random.default_rng(seed)
    chosen = [np.argsort(-np.abs(explanation.contribution), kind="stable")[:number]]
    chosen += [rng.choice(n_events, number, replace=False) for _ in range(RANDOM_DRAWS)]
    values = function.values.repeat(len(chosen), 1)
    for row, events in enumerate(chosen):
        values[row, events] = 0
    most, *at_random = (function(values) - explanation.logit).abs().tolist()
    return most, float(np.mean(at_random))
