"""The risk of a stay after each of its sets. The head, however, was trained on whole stays only.

With causal states one pass over the whole stay gives it: the state of a set depends on no later set, so the states up
to a set are those of the stay cut off after it, and pooling them gives the prediction for that shorter stay. Any other
model predicts each beginning of the stay by itself (`prefixes.py`).

Legend: N stays, S sets (stay by stay, in time order), D width of a state, P pooled width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seqsetvae.batch import Batch
from seqsetvae.evaluation.load import FinetunedModel
from seqsetvae.evaluation.prefixes import every_prefix, predict_prefixes
from seqsetvae.loading import CohortDataModule
from seqsetvae.metrics import require_finite
from seqsetvae.processes import columns_of_all, own_share


@dataclass(frozen=True, eq=False)
class EverySet:
    """One row for each set of some stays, stay by stay, in time order."""

    stay_id: NDArray[np.int64]  # [S]
    set_index: NDArray[np.int64]  # [S] from 0 in each stay
    minute: NDArray[np.float64]  # [S]
    logit: NDArray[np.float64]  # [S] log-odds of class 1 after this set

    def ordered(self, stays: NDArray[np.int64]) -> EverySet:
        """The rows with the stays in this order, which holds each of them once."""
        sorter = np.argsort(stays)
        position = sorter[np.searchsorted(stays, self.stay_id, sorter=sorter)]
        order = np.argsort(position, kind="stable")
        return EverySet(self.stay_id[order], self.set_index[order], self.minute[order], self.logit[order])


def predict_every_set(
    model: FinetunedModel,
    embeddings: torch.Tensor,
    data: CohortDataModule,
    split: str,
    precision: AbstractContextManager[Any],
) -> EverySet:
    """The prediction after every set of every stay of a split, in the order of the cohort.

    Raises:
        FloatingPointError: a logit is not finite.
    """
    stays = data.cohort.split(split)
    if is_causal(model) and data.max_sets is None:
        found = states_of_every_set(model, embeddings, data.loader(split, **own_share()), split, precision)
        return found.ordered(np.array(stays.stay_id))
    prefixes = every_prefix(stays)
    logit = predict_prefixes(model, embeddings, data, split, prefixes, precision)
    return EverySet(stays.stay_id[prefixes.stay], prefixes.n_sets - 1, np.array(stays.minute), logit)


def is_causal(model: FinetunedModel) -> bool:
    """Whether the model has a state of each set that depends on no later set, and a pooling of the states up to it."""
    return hasattr(model.backbone, "states") and model.pooling in PREFIX_POOLINGS


@torch.inference_mode()
def states_of_every_set(
    model: FinetunedModel,
    embeddings: torch.Tensor,
    batches: Iterable[Batch],
    split: str,
    precision: AbstractContextManager[Any],
) -> EverySet:
    """The prediction of a causal model after every set of every stay of these batches, from their states.

    Raises:
        FloatingPointError: a logit is not finite.
    """
    parts: list[tuple[torch.Tensor, ...]] = []
    for cpu_batch in batches:
        batch = cpu_batch.to(embeddings.device)
        with precision:
            states = model.backbone.states(batch, embeddings)
            logits = model.head(PREFIX_POOLINGS[model.pooling](states, batch))
        stay_id = cpu_batch.stay_id[cpu_batch.stay_of_set]
        require_finite(logits, stay_id, split)
        margin = logits.double().diff(dim=1).squeeze(1).cpu()
        parts.append((stay_id, cpu_batch.set_index, cpu_batch.minute, margin))
    return EverySet(*(column.numpy() for column in columns_of_all(parts)))


def _last(states: torch.Tensor, batch: Batch) -> torch.Tensor:
    return states


def _mean(states: torch.Tensor, batch: Batch) -> torch.Tensor:
    total = states.double().cumsum(0)  # double: the sum runs over all stays of the batch
    first = batch.sets_per_stay.cumsum(0) - batch.sets_per_stay
    before = torch.cat([total.new_zeros(1, total.shape[1]), total]).index_select(0, first)  # [N, D]
    own = total - before.index_select(0, batch.stay_of_set)
    return (own / (batch.set_index[:, None] + 1)).to(states.dtype)


def _last_and_mean(states: torch.Tensor, batch: Batch) -> torch.Tensor:
    return torch.cat([states, _mean(states, batch)], dim=1)


# [S, D] → [S, P]: what ops.pooling.POOLINGS of the same name gives for the stay cut off after each set.
PREFIX_POOLINGS: dict[str, Callable[[torch.Tensor, Batch], torch.Tensor]] = {
    "last": _last,
    "mean": _mean,
    "last_mean": _last_and_mean,
}
