"""Batches of stays and their order: a pure function of (seed, stage, epoch, rank, world size, offset).

Legend: n stays of a split, B batches of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from torch.utils.data import Sampler

POOL_BATCHES = 16  # batches' stays sorted by length together: little padding, and epochs still differ


@dataclass(frozen=True)
class Groups:
    """Batches of stays as slices of one array: 8 bytes per stay and 16 per batch."""

    order: np.ndarray  # [n] stays
    start: np.ndarray  # [B] into order
    end: np.ndarray  # [B] into order

    def __len__(self) -> int:
        return len(self.start)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.order[start:end] for start, end in zip(self.start, self.end, strict=True))

    def __getitem__(self, batches: slice | np.ndarray) -> Groups:
        """These batches, in this order."""
        return Groups(self.order, self.start[batches], self.end[batches])

    def halved(self, count: int) -> Groups:
        """Halve the `count` largest batches, or as many as have several stays."""
        size = self.end - self.start
        largest = np.argsort(-size, kind="stable")[: min(count, np.count_nonzero(size > 1))]
        middle = self.start[largest] + size[largest] // 2
        end = self.end.copy()
        end[largest] = middle
        return Groups(self.order, np.append(self.start, middle), np.append(end, self.end[largest]))

    def and_single(self, stays: np.ndarray) -> Groups:
        """These batches, then each of these stays as a batch of its own."""
        start = len(self.order) + np.arange(len(stays))
        return Groups(np.append(self.order, stays), np.append(self.start, start), np.append(self.end, start + 1))

    def balanced(self, n_events: np.ndarray, world_size: int, max_events: int) -> Groups:
        """Exchange stays within every step of `world_size` batches, so that each batch has about as many events.

        The stays of a step, from most events to fewest, go to the first process to the last and back, again and again.
        A step in which a batch would then exceed `max_events` remains as it is. `world_size` divides the batches.
        """
        size = self.end - self.start
        order = np.concatenate([*self]) if len(self) else self.order
        batch = np.repeat(np.arange(len(self)), size)  # of each stay in `order`
        step = batch // world_size
        of_step = size.reshape(-1, world_size).sum(axis=1)
        by_size = np.lexsort((-n_events[order], step))
        turn = np.arange(len(order)) - np.repeat(np.cumsum(of_step) - of_step, of_step)
        forth, back = turn % world_size, world_size - 1 - turn % world_size
        new = np.empty_like(batch)
        new[by_size] = step[by_size] * world_size + np.where(turn // world_size % 2, back, forth)
        largest = np.bincount(new, n_events[order], len(self)).reshape(-1, world_size).max(axis=1, initial=0)
        new = np.where(largest[step] > max_events, batch, new)
        order = order[np.lexsort((n_events[order], new))]
        end = np.cumsum(np.bincount(new, minlength=len(self)))
        return Groups(order, np.append(0, end)[: len(end)], end)


def group_by_length(
    order: np.ndarray,
    n_sets: np.ndarray,
    n_events: np.ndarray,
    batch_size: int,
    max_events: int,
    pool_batches: int | None = POOL_BATCHES,
) -> Groups:
    """Cut stays, taken in `order`, into batches of similar length.

    Pools of `pool_batches` batches (None: one pool of all stays) are sorted by number of sets and cut where a batch has
    `batch_size` stays or would exceed `max_events`. A stay that alone exceeds `max_events` is a batch of its own.
    """
    pool_size = len(order) if pool_batches is None else pool_batches * batch_size
    order = order[np.lexsort((n_sets[order], np.arange(len(order)) // max(pool_size, 1)))]  # stable
    start = np.fromiter(_cut(n_events[order], batch_size, max_events, pool_size), dtype=np.int64)
    return Groups(order, start, np.append(start, len(order))[1:])


def _cut(n_events: np.ndarray, batch_size: int, max_events: int, pool_size: int) -> Iterator[int]:
    """Where each batch begins."""
    count = events = 0
    for position, size in enumerate(n_events.data):  # a memoryview yields Python numbers one by one
        if position % pool_size == 0 or count == batch_size or events + size > max_events:
            yield position
            count = events = 0
        count += 1
        events += size


class LengthBucketSampler(Sampler[np.ndarray]):
    """The batches of one epoch for one process, as positions of stays in their split.

    In training (`shuffle`) the stays are permuted, pooled and batched, and the batches are permuted, differently for
    each stage and epoch; otherwise the batches go from short to long stays. All processes compute the same batches, and
    each takes every `world_size`-th. With `equal_steps` all of them get equally many: the largest batches are halved
    until the number of batches is divisible by `world_size`. If batches of single stays remain, the first stays are
    added again: in training as they are, otherwise without their label, as ~position, so that no metric counts a stay
    twice. In training the stays of each step are then dealt out so that no process waits for another (`balanced`).

    The first `offset` batches of this process were processed before a restart and are left out. `len` is that of the
    whole epoch, which Lightning needs.
    """

    def __init__(
        self,
        stays: np.ndarray,
        n_sets: np.ndarray,
        n_events: np.ndarray,
        *,
        batch_size: int,
        max_events: int,
        shuffle: bool,
        seed: int = 0,
        stage: int = 1,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        offset: int = 0,
        equal_steps: bool = True,
    ) -> None:
        rng = np.random.default_rng([seed, stage, epoch])
        order, pool_batches = (rng.permutation(stays), POOL_BATCHES) if shuffle else (stays, None)
        batches = group_by_length(order, n_sets, n_events, batch_size, max_events, pool_batches)
        if shuffle:
            batches = batches[rng.permutation(len(batches))]
        if equal_steps and world_size > 1:
            batches = batches.halved(-len(batches) % world_size)
            again = np.resize(batches.order, -len(batches) % world_size)
            batches = batches.and_single(again if shuffle else ~again)
            if shuffle:
                batches = batches.balanced(n_events, world_size, max_events)
        self.batches = batches[rank::world_size]
        self.offset = offset

    def __iter__(self) -> Iterator[np.ndarray]:
        return islice(self.batches, self.offset, None)

    def __len__(self) -> int:
        return len(self.batches)
