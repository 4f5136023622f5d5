"""Predictions for the stays of a split, or for beginnings of them, as one table that everything else reads.

A beginning is a stay cut off after some of its sets, which is exact for every architecture. The risk after every set of
a stay is one for each set. With causal states one pass over the whole stay gives it: the state of a set depends on no
later set, so the states up to a set are those of the stay cut off after it. Any other model predicts each beginning by
itself. The head, however, was trained on whole stays only.

Legend: N stays of a batch, n of the table, O outputs, K columns of labels, R beginnings, S sets (stay by stay, in time
order), D width of a state, P pooled width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from seqsetvae.batches.batch import Batch, PooledBatch
from seqsetvae.batches.loading import BatchLoader, CohortDataModule, SplitBatches
from seqsetvae.batches.sampler import LengthBucketSampler
from seqsetvae.checkpoint.finetuned import FinetunedModel
from seqsetvae.cohort import Cohort, Split
from seqsetvae.cohort.format import join_ranges
from seqsetvae.system.processes import all_gather_rows, own_share
from seqsetvae.tasks import TASKS
from seqsetvae.tasks.spec import Calibration, Spec
from seqsetvae.tasks.targets import truth
from seqsetvae.training.metrics import require_finite

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """One row for each stay."""

    spec: Spec
    split: str
    stay_id: Ints  # [n]
    output: Floats  # [n, O] as `predicted` of the task, such as log-odds
    target: Floats  # [n, K] in the unit of each column, NaN = no label
    subject: Ints | None = None  # [n] the patient of each stay; None: each stay is of another
    calibration: Calibration | None = None

    def __len__(self) -> int:
        return len(self.stay_id)

    def rows(self, chosen: Any) -> Predictions:
        """These rows: a mask [n] or positions."""
        subject = None if self.subject is None else self.subject[chosen]
        stay_id, output, target = self.stay_id[chosen], self.output[chosen], self.target[chosen]
        return replace(self, stay_id=stay_id, output=output, target=target, subject=subject)

    def labelled(self) -> Predictions:
        """The rows of stays with a label in any column."""
        return self.rows(~np.isnan(self.target).all(axis=1))

    def other(self, output: Floats) -> Predictions:
        """Predictions of another model for the same stays, without a calibration."""
        return replace(self, output=output, calibration=None)


def predictions_of(spec: Spec, cohort: Cohort, split: str, stay_id: Ints, output: Floats) -> Predictions:
    """Outputs [n, O] for stays of a split with what the cohort knows of these stays; a stay may occur twice."""
    target, subject = truth(cohort, split, spec, stay_id), cohort.split(split).subjects_of(stay_id)
    return Predictions(spec=spec, split=split, stay_id=stay_id, output=output, target=target, subject=subject)


@torch.inference_mode()
def predict(
    spec: Spec,
    model: Callable[[Any, torch.Tensor], torch.Tensor],
    embeddings: torch.Tensor,
    batches: Iterable[Batch | PooledBatch],
    split: str,
    precision: AbstractContextManager[Any],
) -> tuple[Ints, Floats]:
    """(ids [n], outputs [n, O]) of every stay of these batches, with or without a label.

    `model` maps a batch and the embeddings [V, I] to outputs of a head. They are computed on the device of
    `embeddings`. Of several processes each has its `own_share` of the batches, and all return all predictions.

    Raises:
        FloatingPointError: an output is not finite; it would be ranked above all others.
    """
    parts = []
    for cpu_batch in batches:
        batch = cpu_batch.to(embeddings.device)
        with precision:
            output = model(batch, embeddings)
        require_finite(output, cpu_batch.stay_id, split)
        parts.append((batch.stay_id, TASKS[spec.task].predicted(output)))
    stay_id, outputs = all_gather_rows(parts)
    return stay_id.cpu().numpy(), outputs.cpu().numpy()


# ------------------------------------------------------------------ from the beginnings of stays


@dataclass(frozen=True, eq=False)
class Prefixes:
    """Beginnings of stays of a split."""

    stay: Ints  # [R] position of the stay in the split
    n_sets: Ints  # [R] how many of its first sets are kept, at least 1

    def rows(self, chosen: NDArray[np.bool_]) -> Prefixes:
        """The prefixes that a mask [R] marks."""
        return Prefixes(self.stay[chosen], self.n_sets[chosen])

    def last_set(self, split: Split) -> Ints:
        """[R] position in the split of the last set that is kept."""
        return split.stay_offset[self.stay] + self.n_sets - 1


def every_prefix(split: Split) -> Prefixes:
    """A prefix for each set of each stay, in the order of the split: R = S."""
    n_sets = np.diff(split.stay_offset)
    return Prefixes(np.repeat(np.arange(split.n_stays), n_sets), join_ranges(np.ones_like(n_sets), n_sets))


def until_hour(split: Split, hours: float) -> Prefixes:
    """Prefixes of the first `hours` hours since admission, of every stay that has a set by then."""
    early = np.concatenate([[0], np.cumsum(split.minute <= 60 * hours)])
    n_sets = np.diff(early[split.stay_offset])
    (stay,) = np.nonzero(n_sets)
    return Prefixes(stay, n_sets[stay])


class _PrefixBatches(Dataset[Batch]):
    """A dataset whose item for some rows is the batch of these beginnings."""

    def __init__(self, batches: SplitBatches, prefixes: Prefixes) -> None:
        self.batches, self.prefixes = batches, prefixes

    def __getitem__(self, rows: np.ndarray) -> Batch:
        return self.batches.batch(self.prefixes.stay[rows], self.prefixes.n_sets[rows])

    def __len__(self) -> int:
        return len(self.prefixes.stay)


def predict_prefixes(
    model: FinetunedModel,
    embeddings: torch.Tensor,
    data: CohortDataModule,
    split: str,
    prefixes: Prefixes,
    precision: AbstractContextManager[Any],
) -> NDArray[np.float64]:
    """Outputs for each beginning, as if its stay ended there: [R, O].

    Raises:
        FloatingPointError: one is not finite.
    """
    if not len(prefixes.stay):
        return np.empty((0, model.spec.width))
    batches = data.loader(split).dataset
    assert isinstance(batches, SplitBatches)
    sampler = LengthBucketSampler(
        np.arange(len(prefixes.stay)),
        *_sizes(data.cohort.split(split), prefixes, data.max_sets),
        batch_size=data.batch_size,
        max_events=data.max_events,
        shuffle=False,
        **own_share(),
    )
    loader = BatchLoader(_PrefixBatches(batches, prefixes), sampler, data.num_workers, pin_memory=data.pin_memory)
    _, in_order = predict(model.spec, model, embeddings, loader, split, precision)
    output = np.empty_like(in_order)
    output[sampler.batches.order] = in_order
    return output


def _sizes(split: Split, prefixes: Prefixes, max_sets: int | None) -> tuple[Ints, Ints]:
    """Sets and events that the model reads of each beginning: [R], [R]."""
    end = prefixes.last_set(split) + 1
    n_sets = np.minimum(prefixes.n_sets, max_sets or prefixes.n_sets)
    return n_sets, split.set_offset[end] - split.set_offset[end - n_sets]


# ------------------------------------------------------------------ after every set


def predict_every_set(
    model: FinetunedModel,
    embeddings: torch.Tensor,
    data: CohortDataModule,
    split: str,
    precision: AbstractContextManager[Any],
) -> NDArray[np.float64]:
    """Outputs for `every_prefix` of a split: [S, O].

    Raises:
        FloatingPointError: one is not finite.
    """
    stays = data.cohort.split(split)
    if not is_causal(model) or data.max_sets is not None:
        return predict_prefixes(model, embeddings, data, split, every_prefix(stays), precision)
    loader = data.loader(split, **own_share())
    stay_of_set, outputs = states_of_every_set(model, embeddings, loader, split, precision)
    sorter = np.argsort(stays.stay_id)
    position = sorter[np.searchsorted(stays.stay_id, stay_of_set, sorter=sorter)]
    return outputs[np.argsort(position, kind="stable")]


def is_causal(model: FinetunedModel) -> bool:
    """Whether the model has a state of each set that depends on no later set, and a pooling of the states up to it."""
    return "states" in model.backbone.OFFERS and model.pooling in PREFIX_POOLINGS


@torch.inference_mode()
def states_of_every_set(
    model: FinetunedModel,
    embeddings: torch.Tensor,
    batches: Iterable[Batch],
    split: str,
    precision: AbstractContextManager[Any],
) -> tuple[Ints, NDArray[np.float64]]:
    """(stay of each set [S], outputs after it [S, O]) of a causal model for all stays of these batches.

    Raises:
        FloatingPointError: an output is not finite.
    """
    parts: list[tuple[torch.Tensor, ...]] = []
    for cpu_batch in batches:
        batch = cpu_batch.to(embeddings.device)
        with precision:
            states = model.backbone.states(batch, embeddings)
            output = model.head(PREFIX_POOLINGS[model.pooling](states, batch))
        stay_id = cpu_batch.stay_id[cpu_batch.stay_of_set]
        require_finite(output, stay_id, split)
        predicted = TASKS[model.spec.task].predicted(output).cpu()
        parts.append((stay_id, predicted))
    stay_of_set, outputs = all_gather_rows(parts)
    return stay_of_set.numpy(), outputs.numpy()


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
