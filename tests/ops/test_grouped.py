"""Products of groups of rows equal those of autograd, values and gradients, to the last bit."""

import pytest
import torch

from seqsetvae.ops import grouped
from seqsetvae.ops.grouped import grouped_products, plain_grouped_products

GROUPS = ((1, 3), (2, 7), (4, 1))  # matrices 0 and 3 have no rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("of_rows", [True, False])
def test_grouped_products_equal_those_of_autograd(dtype, of_rows):
    drawn = torch.Generator().manual_seed(0)
    rows = torch.randn(11, 5, dtype=dtype, generator=drawn, requires_grad=of_rows)
    matrices = torch.randn(5, 5, 4, dtype=dtype, generator=drawn, requires_grad=True)
    probe = torch.randn(11, 4, dtype=dtype, generator=drawn)
    wanted = [rows, matrices] if of_rows else [matrices]
    fast, plain = (product(rows, matrices, GROUPS) for product in (grouped_products, plain_grouped_products))
    assert torch.equal(fast, plain)
    expected = torch.autograd.grad((plain * probe).sum(), wanted)
    for own, other in zip(torch.autograd.grad((fast * probe).sum(), wanted), expected, strict=True):
        assert torch.equal(own, other)
    assert (expected[-1].abs().sum((1, 2)) > 0).tolist() == [False, True, True, False, True]


def test_autocast_reaches_the_products():
    rows, matrices = torch.randn(11, 5), torch.randn(5, 5, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert grouped_products(rows, matrices, GROUPS).dtype == torch.bfloat16


@pytest.mark.parametrize("of_rows", [True, False])
@pytest.mark.parametrize("block", [1, 2, 3, 64])
def test_products_of_many_groups_equal_those_of_autograd(monkeypatch, of_rows, block):
    """They are added in another order, so that last bits differ."""
    monkeypatch.setattr(grouped, "MANY", 1)
    monkeypatch.setattr(grouped, "BLOCK", block)
    drawn = torch.Generator().manual_seed(0)
    rows = torch.randn(11, 5, dtype=torch.float64, generator=drawn, requires_grad=of_rows)
    matrices = torch.randn(7, 5, 4, dtype=torch.float64, generator=drawn, requires_grad=True)
    probe = torch.randn(11, 4, dtype=torch.float64, generator=drawn)
    wanted = [rows, matrices] if of_rows else [matrices]
    fast, plain = (product(rows, matrices, GROUPS) for product in (grouped_products, plain_grouped_products))
    torch.testing.assert_close(fast, plain, rtol=1e-14, atol=1e-14)
    expected = torch.autograd.grad((plain * probe).sum(), wanted)
    for own, other in zip(torch.autograd.grad((fast * probe).sum(), wanted), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-14, atol=1e-14)
