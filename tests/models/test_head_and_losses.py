"""Pooling, head and losses, each against its definition."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from seqsetvae.models.head import Head
from seqsetvae.ops import reference
from seqsetvae.ops.pooling import POOLINGS, pool
from seqsetvae.tasks.model import Loss
from tests import tiny
from tests.training.helpers import LOSS


@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_pooling_equals_a_loop_over_stays(pooling):
    stays = tiny.ragged_stays()
    batch = tiny.batch_of(stays)
    history = torch.randn(batch.n_sets, 32, dtype=torch.float64)
    of_stays = history.split([len(stay) for stay in stays])
    plain = torch.stack([reference.pool(states, pooling) for states in of_stays])
    torch.testing.assert_close(pool(history, batch.sets_per_stay, pooling), plain, rtol=0, atol=1e-12)


def test_the_head_is_two_layers():
    head = Head(64, 16, 0.25)
    assert [type(layer).__name__ for layer in head.net] == ["Linear", "ReLU", "Dropout", "Linear"]
    assert head.net[0].in_features == 64
    assert head.net[2].p == 0.25
    assert head(torch.randn(5, 64)).shape == (5, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_head_computes_in_single_precision_whatever_the_precision_of_the_run(dtype):
    head = Head(32, 16, 0.0)
    pooled = torch.randn(5, 32).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(pooled)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, head(pooled.float()))


def test_the_head_of_a_double_precision_run_is_double():
    assert Head(32, 16, 0.0).double()(torch.randn(5, 32, dtype=torch.float64)).dtype == torch.float64


def cross_entropy(logits: torch.Tensor, target: torch.Tensor, weight: float = 1.0, smoothing: float = 0.0) -> Any:
    return Loss(replace(LOSS, label_smoothing=smoothing), weight)(logits, target)


def focal(logits: torch.Tensor, target: torch.Tensor, gamma: float, alpha: float | None) -> torch.Tensor:
    return Loss(replace(LOSS, loss="focal", focal_gamma=gamma, focal_alpha=alpha))(logits, target)


LOGITS = torch.tensor([[0.3, -1.2], [2.0, 0.1], [-0.7, 0.9], [0.0, 0.0]], dtype=torch.float64)
TARGET = torch.tensor([0, 1, 1, 0])


def _probability_of_the_truth() -> list[float]:
    return [1 / (1 + math.exp(float(row[1 - t] - row[t]))) for row, t in zip(LOGITS, TARGET, strict=True)]


def test_cross_entropy_by_hand():
    expected = sum(-math.log(p) for p in _probability_of_the_truth()) / 4
    assert float(cross_entropy(LOGITS, TARGET)) == pytest.approx(expected, abs=1e-12)


def test_cross_entropy_with_weight_is_a_weighted_mean():
    weights = [1.0, 3.0, 3.0, 1.0]
    expected = sum(-w * math.log(p) for w, p in zip(weights, _probability_of_the_truth(), strict=True)) / 8
    assert float(cross_entropy(LOGITS, TARGET, 3.0)) == pytest.approx(expected, abs=1e-12)


def test_cross_entropy_with_weight_and_smoothing_is_that_of_torch():
    expected = F.cross_entropy(LOGITS, TARGET, weight=torch.tensor([1.0, 2.5]).double(), label_smoothing=0.1)
    assert float(cross_entropy(LOGITS, TARGET, 2.5, 0.1)) == pytest.approx(float(expected), abs=1e-12)
    assert float(expected) != pytest.approx(float(cross_entropy(LOGITS, TARGET, 2.5)), abs=1e-3)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, None), (2.0, 0.25), (0.0, 0.75), (0.5, None)])
def test_focal_by_hand(gamma, alpha):
    weights = [1.0 if alpha is None else alpha if t == 1 else 1 - alpha for t in TARGET.tolist()]
    expected = (
        sum(-w * (1 - p) ** gamma * math.log(p) for w, p in zip(weights, _probability_of_the_truth(), strict=True)) / 4
    )
    assert float(focal(LOGITS, TARGET, gamma, alpha)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_finite_for_sure_predictions(dtype, gamma):
    """Right and wrong by 80 nats: value and gradient are numbers, and a sure mistake still pulls back."""
    logits = torch.tensor([[40.0, -40.0], [-40.0, 40.0]], dtype=dtype, requires_grad=True)
    for target in (torch.tensor([0, 1]), torch.tensor([1, 0])):
        logits.grad = None
        loss = focal(logits, target, gamma, 0.25)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
    assert logits.grad is not None
    assert (logits.grad.abs() > 0.1).all()  # the second target: both wrong
    assert float(loss.detach()) == pytest.approx(80 * 0.5, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cross_entropy_is_computed_in_single_precision(dtype):
    logits = LOGITS.to(dtype)
    assert torch.equal(cross_entropy(logits, TARGET, 2.0), cross_entropy(logits.float(), TARGET, 2.0))


@pytest.mark.parametrize(
    ("changes", "positive_weight"),
    [({}, 1.0), ({}, 3.0), ({"label_smoothing": 0.1}, 3.0), ({"loss": "focal", "focal_alpha": 0.75}, 1.0)],
)
def test_stays_without_a_label_have_no_part_in_the_loss(changes, positive_weight):
    loss = Loss(replace(LOSS, **changes), positive_weight).double()
    logits, target = torch.cat([LOGITS, torch.randn(2, 2)]), torch.cat([TARGET, torch.tensor([-1, -1])])
    value, weight = loss.with_weight(logits, target)
    assert float(value) == pytest.approx(float(loss(LOGITS, TARGET)), abs=1e-12)
    assert float(weight) == float(loss.weight(TARGET))
    assert loss.with_weight(logits[4:], target[4:]) == (0, 0)
