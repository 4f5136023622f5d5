"""Operations within sets equal their plain forms, in both layouts; a model gives the same in both layouts."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from seqsetvae.architectures.seqsetvae import reference as plain
from seqsetvae.architectures.seqsetvae.decoder import Decoder
from seqsetvae.batch import Batch
from seqsetvae.objectives.reconstruction import loss as losses
from seqsetvae.ops import reference
from seqsetvae.ops.ragged import ExactSizes, PaddedSizes
from tests import tiny
from tests.tiny import SIZES

SETS = {
    "of all sizes": [1, 3, 1, 20, 2, 300, 5, 17, 39, 4, 8, 9, 16, 48, 49],
    "of one event": [1, 1, 1],
    "of no single event": [2, 7, 39],
    "of exactly the padded sizes": [1, 8, 16, 48],
    "of 300 events": [300],
}


def _stays(sizes: list[int]) -> list[list[plain.PlainSet]]:
    rng = np.random.default_rng(3)
    return [tiny.random_stay(rng, part) for part in (sizes, sizes[::-1])]


def _batches(sizes: list[int], dtype: type = np.float64) -> tuple[Batch, Batch]:
    """The same stays with exact sizes and with padded ones."""
    exact, few = (tiny.batch_of(_stays(sizes), dtype, padded_classes) for padded_classes in (False, True))
    assert isinstance(exact.sizes, ExactSizes)
    assert isinstance(few.sizes, PaddedSizes)
    return exact, few


def _equal(ours: Any, theirs: Any, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def _gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


HEADS, POINTS, WIDTH = 2, 3, 4
# name: (plain form for one set, arguments after the inputs, inputs as (rows for a set of this size, columns))
OPERATIONS: dict[str, tuple[Any, tuple[int, ...], list[tuple[Any, int]]]] = {
    "mean": (lambda x: x.mean(0, keepdim=True), (), [(int, WIDTH)]),
    "attend": (lambda *qkv: reference.attend(*qkv, HEADS, causal=False), (HEADS,), [(int, WIDTH)] * 3),
    "pool_events": (
        lambda scores, values: reference.pool_events(scores, values, HEADS)[: _n_rows(len(scores))],
        (HEADS, POINTS),
        [(int, HEADS * POINTS), (int, HEADS * WIDTH)],
    ),
    "read_rows": (
        lambda queries, rows: reference.read_rows(queries, rows, HEADS),
        (HEADS, POINTS),
        [(int, HEADS * WIDTH), (lambda size: _n_rows(size), WIDTH)],
    ),
}


def _n_rows(size: int) -> int:
    return 1 if size == 1 else POINTS


@pytest.mark.parametrize("layout", [ExactSizes, PaddedSizes])
@pytest.mark.parametrize("sizes", SETS.values(), ids=SETS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_values_and_gradients_equal_the_plain_form(operation: str, sizes: list[int], layout: Any) -> None:
    plain, arguments, shapes = OPERATIONS[operation]
    sizes = sorted(sizes)
    rows = [[n_rows(size) for size in sizes] for n_rows, _ in shapes]
    inputs = [
        torch.randn(sum(n), columns, dtype=torch.float64, requires_grad=True)
        for n, (_, columns) in zip(rows, shapes, strict=True)
    ]
    of_sets = zip(*(part.split(n) for part, n in zip(inputs, rows, strict=True)), strict=True)
    ours = getattr(layout.of(np.array(sizes)), operation)(*inputs, *arguments)
    _equal_with_gradients(ours, torch.cat([plain(*of_set) for of_set in of_sets]), inputs)


@pytest.mark.parametrize("layout", [ExactSizes, PaddedSizes])
@pytest.mark.parametrize("sizes", SETS.values(), ids=SETS)
def test_spread_repeats_the_row_of_each_set(sizes: list[int], layout: Any) -> None:
    rows = torch.randn(len(sizes), WIDTH, dtype=torch.float64, requires_grad=True)
    plain = torch.cat([row.expand(size, -1) for row, size in zip(rows, sorted(sizes), strict=True)])
    _equal_with_gradients(layout.of(np.array(sorted(sizes))).spread(rows), plain, [rows])


def _equal_with_gradients(ours: torch.Tensor, plain: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    _equal(ours, plain)
    direction = torch.randn_like(plain)
    _equal(*(torch.autograd.grad((output * direction).sum(), inputs) for output in (ours, plain)))


@pytest.mark.parametrize("sizes", SETS.values(), ids=SETS)
@pytest.mark.parametrize("training", [False, True])
def test_the_backbone_in_values_and_gradients(
    sizes: list[int], training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqsetvae.architectures.seqsetvae.set_encoder.EVENT_DROPOUT", 0.0)
    backbone = tiny.tiny_backbone(dtype=torch.float64, transformer_dropout=0.0).train(training)
    backbone.set_encoder.mu_logvar.eval()
    exact, few = (backbone(batch, tiny.embeddings()) for batch in _batches(sizes))
    _equal(few, exact)
    direction = torch.randn_like(exact)
    _equal(_gradients(backbone, (few * direction).sum()), _gradients(backbone, (exact * direction).sum()))


@pytest.mark.parametrize("sizes", SETS.values(), ids=SETS)
def test_the_decoder_and_its_loss_in_values_and_gradients(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(SIZES).double().eval()
    exact, few = _batches(sizes)
    seeds = torch.randn(len(exact.variable), SIZES.latent_dim, dtype=torch.float64)
    monkeypatch.setattr(Decoder, "_seeds", lambda self, like: seeds)
    states = torch.randn(exact.n_sets, SIZES.latent_dim, dtype=torch.float64)
    target = torch.randn(len(exact.variable), SIZES.event_dim, dtype=torch.float64)
    recon = [decoder(states, batch.sizes) for batch in (exact, few)]
    _equal(recon[1], recon[0])
    loss = [losses.reconstruction(part, target, batch.sizes) for part, batch in zip(recon, (exact, few), strict=True)]
    _equal(loss[1], loss[0])
    _equal(_gradients(decoder, loss[1]), _gradients(decoder, loss[0]))


def test_single_precision() -> None:
    backbone = tiny.tiny_backbone()
    exact, few = (backbone(b, tiny.embeddings(torch.float32)) for b in _batches(SETS["of all sizes"], np.float32))
    _equal(few, exact, 1e-4)
    direction = torch.randn_like(exact)
    _equal(_gradients(backbone, (few * direction).mean()), _gradients(backbone, (exact * direction).mean()), 1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(dtype: torch.dtype) -> None:
    backbone = tiny.tiny_backbone()
    with torch.autocast("cpu", dtype=dtype):
        exact, few = (backbone(b, tiny.embeddings(torch.float32)) for b in _batches(SETS["of all sizes"], np.float32))
    assert few.dtype == torch.float32
    _equal(few, exact, 1e-2)


def test_values_in_the_padding_have_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """On means and minima too, not only on attention: any finite number may be there."""
    batch = _batches([2, 5, 9])[1]
    recon, target = torch.randn(2, len(batch.variable), SIZES.event_dim, dtype=torch.float64)
    loss = losses.reconstruction(recon, target, batch.sizes)
    pad = PaddedSizes.pad
    monkeypatch.setattr(PaddedSizes, "pad", lambda sizes, x: pad(sizes, x, fill=7.0))
    _equal(losses.reconstruction(recon, target, batch.sizes), loss)


def test_sets_are_padded_to_few_sizes_whatever_their_number() -> None:
    few = _batches(SETS["of all sizes"])[1].sizes
    assert isinstance(few, PaddedSizes)
    assert few.runs == ((1, 4), (8, 10), (16, 4), (48, 8), (96, 2), (384, 2))
    assert int(few.is_event.sum()) == len(few.event_position) == 2 * sum(SETS["of all sizes"])


def test_padded_sizes_travel_with_their_batch() -> None:
    few = _batches([1, 3, 9])[1]
    for other in (pickle.loads(pickle.dumps(few)), few.to("cpu")):
        assert tiny.same(few, other)
    assert {value.device.type for value in tiny.tensors_of(few.to("meta"))} == {"meta"}
