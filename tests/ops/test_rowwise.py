"""Dropout: each entry by itself, with the given probability, without bias. Feed-forward blocks: the same values."""

import pytest
import torch

from seqsetvae.ops.rowwise import CACHED_ROWS, dropout, feed_forward

ENTRIES = 10**6


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_entries_drop_with_the_given_probability_and_means_stay(probability):
    torch.manual_seed(0)
    kept = dropout(torch.ones(ENTRIES, dtype=torch.float64), probability, training=True)
    deviation = (probability * (1 - probability) / ENTRIES) ** 0.5
    assert abs(float((kept == 0).double().mean()) - probability) < 5 * deviation
    assert abs(float(kept.mean()) - 1) < 5 * deviation / (1 - probability)
    assert kept.unique().tolist() == pytest.approx([0, 1 / (1 - probability)], rel=1e-4)


def test_neighbouring_entries_drop_independently_though_four_share_a_draw():
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(ENTRIES), 0.1, training=True) == 0).double()
    for distance in (1, 2, 3, 4):
        both = float((dropped[distance:] * dropped[:-distance]).mean())
        assert abs(both - 0.01) < 5 * (0.01 * 0.99 / ENTRIES) ** 0.5


def test_the_gradient_is_dropped_and_scaled_as_the_value_is():
    x = torch.randn(7, 5, requires_grad=True)  # not a multiple of four
    out = dropout(x, 0.3, training=True)
    out.backward(torch.ones_like(out))
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x, out)
    assert (x.grad == 0).any()
    assert (x.grad > 1).any()


def test_the_same_seed_gives_the_same_entries():
    x = torch.ones(100)
    torch.manual_seed(1)
    first, second = dropout(x, 0.5, training=True), dropout(x, 0.5, training=True)
    torch.manual_seed(1)
    assert torch.equal(dropout(x, 0.5, training=True), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("probability", "training"), [(0.5, False), (0.0, True)])
def test_nothing_drops_in_evaluation_or_at_zero(probability, training):
    x = torch.randn(10)
    assert torch.equal(dropout(x, probability, training), x)


def test_bfloat16_rounds_values_and_not_the_scale():
    torch.manual_seed(0)
    x = torch.full((ENTRIES,), 0.9, dtype=torch.bfloat16)  # 0.8984; over 0.9: 0.9983, which rounds to 1
    kept = dropout(x, 0.1, training=True)
    assert kept.dtype == torch.bfloat16
    assert kept.max() == 1


@pytest.mark.parametrize("rows", [0, 3, 2 * CACHED_ROWS + 5])
def test_a_feed_forward_part_in_blocks_gives_the_same_values(rows):
    norm, last_norm = torch.nn.LayerNorm(8), torch.nn.LayerNorm(8)
    layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 8))
    x = torch.randn(rows, 8)
    plain = feed_forward(x, norm, layers, last_norm)
    with torch.no_grad():
        torch.testing.assert_close(feed_forward(x, norm, layers, last_norm), plain)
