"""Which stays form which batch, and when: a pure function of seed, stage, epoch, rank, world size and offset."""

from itertools import chain
from typing import Any

import numpy as np
import pytest

from seqsetvae.batches.sampler import LengthBucketSampler, group_by_length

N_SETS = np.random.default_rng(2).integers(1, 200, 333)
N_EVENTS = N_SETS * 5


def _sampler(**changes: Any) -> LengthBucketSampler:
    options: dict[str, Any] = {"batch_size": 8, "max_events": 4000, "shuffle": True, "seed": 1} | changes
    return LengthBucketSampler(np.arange(333), N_SETS, N_EVENTS, **options)


def _batches(**changes: Any) -> list[list[int]]:
    return [batch.tolist() for batch in _sampler(**changes)]


@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_equal_those_of_a_plain_loop(shuffle):
    """Pins who is with whom, and when: a run must find the batches of its epoch again, in every version."""
    for batch_size, max_events in ((8, 4000), (3, 700), (1, 1), (32, 10**9)):
        for epoch in (0, 3):
            sampler = _sampler(shuffle=shuffle, batch_size=batch_size, max_events=max_events, epoch=epoch)
            expected = _plain_epoch(shuffle, batch_size, max_events, epoch)
            assert [batch.tolist() for batch in sampler] == expected
            assert len(sampler) == len(expected)


def _plain_epoch(shuffle: bool, batch_size: int, max_events: int, epoch: int) -> list[list[int]]:
    """The batches of _sampler, one stay at a time."""
    rng = np.random.default_rng([1, 1, epoch])
    order = rng.permutation(np.arange(333)).tolist() if shuffle else list(range(333))
    pool_size = 16 * batch_size if shuffle else len(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), pool_size):
        batches.append([])
        for stay in sorted(order[start : start + pool_size], key=lambda stay: N_SETS[stay]):
            full = len(batches[-1]) == batch_size or N_EVENTS[[*batches[-1], stay]].sum() > max_events
            if full and batches[-1]:
                batches.append([])
            batches[-1].append(stay)
    return [batches[i] for i in rng.permutation(len(batches))] if shuffle else batches


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_has_every_stay_once(shuffle):
    for epoch in range(3):
        batches = _batches(shuffle=shuffle, epoch=epoch)
        assert sorted(stay for batch in batches for stay in batch) == list(range(333))
        assert all(batches)


def test_the_order_is_a_function_of_seed_stage_and_epoch():
    assert _batches(epoch=3) == _batches(epoch=3)
    seen = [
        _batches(seed=seed, stage=stage, epoch=epoch)
        for seed, stage, epoch in ((1, 1, 3), (1, 1, 4), (1, 2, 3), (2, 1, 3))
    ]
    assert all(ours != theirs for i, ours in enumerate(seen) for theirs in seen[:i])


def test_epochs_group_stays_anew():
    """Not only the order of batches changes: who is with whom does."""
    first, second = ({frozenset(batch) for batch in _batches(epoch=epoch)} for epoch in (0, 1))
    assert len(first & second) < len(first) / 4


def test_without_shuffling_all_epochs_are_alike_and_sorted():
    batches = _batches(shuffle=False)
    assert batches == _batches(shuffle=False, epoch=5)
    lengths = [N_SETS[stay] for batch in batches for stay in batch]
    assert lengths == sorted(lengths)


def test_batches_respect_both_caps():
    for batch in _batches(max_events=1500):
        assert len(batch) <= 8
        assert len(batch) == 1 or N_EVENTS[batch].sum() <= 1500


def test_a_stay_beyond_the_cap_is_a_batch_of_its_own():
    n_sets, n_events = np.array([1, 2, 3, 4]), np.array([10, 10, 9999, 10])
    batches = [batch.tolist() for batch in group_by_length(np.arange(4), n_sets, n_events, 8, 100)]
    assert batches == [[0, 1], [2], [3]]


def test_stays_of_a_batch_are_of_similar_length():
    """Padding of the history grid: far below that of random order."""

    def padding(batches: list[list[int]]) -> float:
        grid = sum(len(batch) * N_SETS[batch].max() for batch in batches)
        return float(grid / N_SETS.sum() - 1)

    order = np.random.default_rng(0).permutation(333).tolist()
    assert padding(_batches(max_events=10**9)) < 0.15
    assert padding([order[i : i + 8] for i in range(0, 333, 8)]) > 0.6


def test_no_stays_make_no_batches():
    for shuffle in (True, False):
        none = LengthBucketSampler(
            np.array([], dtype=int), N_SETS, N_EVENTS, batch_size=8, max_events=9, shuffle=shuffle
        )
        assert list(none) == []


# ------------------------------------------------------------------------------------------------ several processes


def _ranks(world_size: int, **changes: Any) -> list[list[list[int]]]:
    return [_batches(rank=rank, world_size=world_size, **changes) for rank in range(world_size)]


@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_stay_is_in_one_batch_of_one_process_and_all_have_equally_many_batches(shuffle, world_size):
    ranks = _ranks(world_size, shuffle=shuffle)
    assert len({len(batches) for batches in ranks}) == 1
    assert sorted(stay for batches in ranks for batch in batches for stay in batch) == list(range(333))
    assert all(0 < len(batch) <= 8 for batches in ranks for batch in batches)


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_a_step_has_the_stays_of_as_many_batches_of_one_process_dealt_out_evenly(world_size):
    """Who takes part in a step does not depend on how the stays are dealt out, so neither does its gradient."""
    one, ranks = _batches(max_events=10**9), _ranks(world_size, max_events=10**9)
    groups = [[*chain(*one[start : start + world_size])] for start in range(0, len(one), world_size)]
    steps = [[*chain(*batches)] for batches in zip(*ranks, strict=True)]
    for group, step in zip(groups[:-1], steps, strict=False):  # the last ones share what is left
        assert set(step) <= set(group)
    work = np.array([[N_EVENTS[batch].sum() for batch in batches] for batches in ranks])
    assert work.max(axis=0).sum() < 1.05 * work.mean(axis=0).sum()
    dealt_as_they_come = np.array([N_EVENTS[batch].sum() for batch in one[: len(one) // world_size * world_size]])
    as_they_come = dealt_as_they_come.reshape(-1, world_size)
    assert as_they_come.max(axis=1).sum() > 1.15 * as_they_come.mean(axis=1).sum()


@pytest.mark.parametrize("world_size", [2, 3])
def test_stays_dealt_out_respect_both_caps(world_size):
    for max_events in (700, 1500):
        for batch in chain(*_ranks(world_size, max_events=max_events)):
            assert len(batch) <= 8
            assert len(batch) == 1 or N_EVENTS[batch].sum() <= max_events


@pytest.mark.parametrize("world_size", [2, 3, 50])
def test_shares_are_the_batches_of_one_process_in_turns(world_size):
    """For predictions, whose last bits depend on the batch; a process may have none."""
    one, ranks = _batches(shuffle=False), _ranks(world_size, shuffle=False, equal_steps=False)
    for rank, batches in enumerate(ranks):
        assert batches == one[rank::world_size]


@pytest.mark.parametrize("n_stays", range(1, 9))
def test_single_stays_that_do_not_divide_are_repeated_and_in_validation_lose_their_label(n_stays):
    sizes = {"batch_size": 1, "max_events": 1}
    for shuffle in (True, False):
        samplers = [
            LengthBucketSampler(np.arange(n_stays), N_SETS, N_EVENTS, shuffle=shuffle, rank=rank, world_size=3, **sizes)
            for rank in range(3)
        ]
        stays = [int(stay) for sampler in samplers for batch in sampler for stay in batch]
        assert len({len(sampler) for sampler in samplers}) == 1
        assert len(stays) == -(-n_stays // 3) * 3
        if shuffle:
            assert set(stays) == set(range(n_stays))
        else:
            assert sorted(stay for stay in stays if stay >= 0) == list(range(n_stays))
            assert all(~stay in range(n_stays) for stay in stays if stay < 0)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("offset", [0, 1, 5, 1000])
def test_a_restart_leaves_out_the_batches_before_its_offset_and_nothing_else(offset, world_size):
    whole = _batches(rank=world_size - 1, world_size=world_size, epoch=2)
    sampler = _sampler(rank=world_size - 1, world_size=world_size, epoch=2, offset=offset)
    assert [batch.tolist() for batch in sampler] == whole[offset:]
    assert len(sampler) == len(whole)
