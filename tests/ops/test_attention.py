"""Causal attention over the sets of each stay equals its plain form, whatever grids the stays are in."""

import numpy as np
import pytest
import torch

from seqsetvae.ops import attention, reference
from seqsetvae.ops.attention import Grids, causal_attention

HEADS, WIDTH = 2, 6


@pytest.mark.parametrize("lengths", [[1], [4, 4], [3, 5, 4], [2, 60, 1, 3]])
def test_values_and_gradients_equal_the_plain_form(lengths):
    projected = torch.randn(sum(lengths), 3 * WIDTH, dtype=torch.float64, requires_grad=True)
    ours = causal_attention(projected, Grids.from_counts(np.array(lengths)), HEADS)
    stays = [stay.chunk(3, dim=1) for stay in projected.split(lengths)]
    plain = torch.cat([reference.attend(*stay, HEADS, causal=True) for stay in stays])
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    direction = torch.randn_like(plain)
    gradients = [torch.autograd.grad((output * direction).sum(), projected)[0] for output in (ours, plain)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_attention_to_long_histories_goes_block_by_block_on_a_cpu(monkeypatch):
    """Where dropout forbids the fused kernel: the same values and gradients, and no more than a block of weights."""
    monkeypatch.setattr(attention, "QUERY_BLOCK", 16)
    query, key, value = torch.randn(3, 2, 4, 37, 8, dtype=torch.float64).requires_grad_().unbind()
    whole = attention._attend(query, key, value, 0.0)
    blocks = [attention._attend_block(query, key, value, start, 0.0) for start in (0, 16, 32)]
    torch.testing.assert_close(torch.cat(blocks, dim=2), whole, rtol=0, atol=1e-12)

    seen: list[tuple[int, ...]] = []

    def without_dropout(weights: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
        assert (probability, training) == (0.1, True)
        seen.append(tuple(weights.shape[2:]))
        return weights

    monkeypatch.setattr(attention, "dropout", without_dropout)
    dropped = attention._attend(query, key, value, 0.1)
    weights = torch.randn_like(whole)
    for ours, theirs in zip(
        torch.autograd.grad((dropped * weights).sum(), (query, key, value)),
        torch.autograd.grad((whole * weights).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert set(seen) == {(16, 16), (16, 32), (5, 37)}
