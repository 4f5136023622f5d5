"""LoRA: the function at the start, what trains, the merged weight, and the two state dicts."""

import numpy as np
import pytest
import torch
from torch import nn

from seqsetvae.ops.lora import adapters, add_lora, merge_lora, merged_state, with_adapters
from tests import tiny

ALPHA = 6.0


def _states(backbone: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return backbone(tiny.batch_of(tiny.ragged_stays(), dtype=np.float32), tiny.embeddings(torch.float32))


def _with_lora(rank: int = 3, *, trained: bool = True) -> nn.Module:
    """A backbone with LoRA, whose added matrices are not zero."""
    backbone = tiny.tiny_backbone()
    add_lora(backbone, rank, ALPHA)
    if trained:
        with torch.no_grad():
            for name, value in backbone.named_parameters():
                if name.endswith(".B"):
                    value.normal_(std=0.05)
    return backbone


def test_it_starts_at_the_same_function_to_the_last_bit():
    assert torch.equal(_states(_with_lora(trained=False)), _states(tiny.tiny_backbone()))
    assert not torch.allclose(_states(_with_lora()), _states(tiny.tiny_backbone()))


def test_a_weight_is_the_frozen_one_plus_the_scaled_product():
    linear = nn.Linear(5, 4)
    frozen = linear.weight.detach().clone()
    add_lora(linear, 2, ALPHA)
    low_rank = linear.parametrizations["weight"][0]
    nn.init.normal_(low_rank.B)
    assert low_rank.A.shape == (2, 5)
    assert torch.allclose(linear.weight, frozen + ALPHA / 2 * low_rank.B @ low_rank.A)
    x = torch.randn(7, 5)
    as_in_the_paper = x @ frozen.T + linear.bias + ALPHA / 2 * (x @ low_rank.A.T) @ low_rank.B.T
    assert torch.allclose(linear(x), as_in_the_paper, atol=1e-6)


def test_exactly_the_added_matrices_train_one_pair_for_each_matrix():
    backbone = _with_lora()
    trained = {name for name, value in backbone.named_parameters() if value.requires_grad}
    plain = tiny.tiny_backbone()
    matrices = {
        f"{name}.{weight}"
        for name, part in plain.named_modules()
        for weight in {nn.MultiheadAttention: ["in_proj_weight"]}.get(type(part), ["weight"])
        if isinstance(part, nn.Linear | nn.MultiheadAttention)
    }
    assert len(matrices) == 28
    expected = {name.rpartition(".")[::2] for name in matrices}
    assert trained == {f"{part}.parametrizations.{name}.0.{one}" for part, name in expected for one in "AB"}


def test_every_added_matrix_gets_a_gradient():
    backbone = _with_lora()
    batch = tiny.batch_of(tiny.ragged_stays(), dtype=np.float32)
    backbone.train()(batch, tiny.embeddings(torch.float32)).square().sum().backward()
    for name, value in backbone.named_parameters():
        assert (value.grad is not None and bool(value.grad.any())) == value.requires_grad, name


def test_merged_weights_compute_the_same_to_the_last_bit_under_the_ordinary_names():
    backbone = _with_lora()
    before, state = _states(backbone), backbone.state_dict()
    merge_lora(backbone)
    plain = tiny.tiny_backbone()
    assert backbone.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(backbone.state_dict())
    assert torch.equal(_states(backbone), before)
    assert torch.equal(_states(plain), before)
    from_state = merged_state(state, ALPHA)
    assert from_state.keys() == plain.state_dict().keys()
    assert all(torch.equal(from_state[name], value) for name, value in plain.state_dict().items())


def test_the_adapters_bring_back_the_state_before_merging():
    state = _with_lora().state_dict()
    again = with_adapters(merged_state(state, ALPHA), adapters(state))
    assert again.keys() == state.keys()
    assert all(again[name] is state[name] for name in state)


def test_the_rank_is_at_most_that_of_the_matrix():
    linear = nn.Linear(5, 2)
    module = nn.Sequential(linear)
    add_lora(module, 64, ALPHA)
    low_rank = linear.parametrizations["weight"][0]
    assert (low_rank.A.shape, low_rank.B.shape, low_rank.scale) == ((2, 5), (2, 2), ALPHA / 2)
    nn.init.normal_(low_rank.B)
    expected = merged_state(module.state_dict(), ALPHA)["0.weight"]
    assert torch.equal(linear.weight, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_round_the_sum(dtype):
    linear = nn.Linear(5, 4)
    add_lora(linear, 2, ALPHA)
    nn.init.normal_(linear.parametrizations["weight"][0].B)
    expected = linear.weight
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(linear.weight, expected)
