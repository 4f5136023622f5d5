"""Operations within sets equal their plain forms, in both layouts; a model gives the same in both layouts."""

from typing import Any

import numpy as np
import pytest
import torch

from seqsetvae.batches.batch import Batch
from seqsetvae.models.seqsetvae import reference as plain
from seqsetvae.models.seqsetvae.decoder import Decoder
from seqsetvae.objectives.reconstruction import objective as losses
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
# name: (plain form for one set of n events, arguments after the inputs, inputs as (rows for n events, columns))
OPERATIONS: dict[str, tuple[Any, tuple[int, ...], list[tuple[Any, int]]]] = {
    "mean": (lambda n, x: x.mean(0, keepdim=True), (), [(int, WIDTH)]),
    "spread": (lambda n, row: row.expand(n, -1), (), [(lambda n: 1, WIDTH)]),
    "attend": (lambda n, *qkv: reference.attend(*qkv, HEADS, causal=False), (HEADS,), [(int, WIDTH)] * 3),
    "pool_events": (
        lambda n, scores, values: reference.pool_events(scores, values, HEADS)[: _n_rows(n)],
        (HEADS, POINTS),
        [(int, HEADS * POINTS), (int, HEADS * WIDTH)],
    ),
    "read_rows": (
        lambda n, queries, rows: reference.read_rows(queries, rows, HEADS),
        (HEADS, POINTS),
        [(int, HEADS * WIDTH), (lambda n: _n_rows(n), WIDTH)],
    ),
}


def _n_rows(n_events: int) -> int:
    return 1 if n_events == 1 else POINTS


@pytest.mark.parametrize("layout", [ExactSizes, PaddedSizes])
@pytest.mark.parametrize("sizes", SETS.values(), ids=SETS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_values_and_gradients_equal_the_plain_form(operation, sizes, layout):
    plain, arguments, shapes = OPERATIONS[operation]
    sizes = sorted(sizes)
    of_sets = [[torch.randn(rows(n), columns, dtype=torch.float64) for rows, columns in shapes] for n in sizes]
    inputs = [torch.cat(parts).requires_grad_() for parts in zip(*of_sets, strict=True)]
    ours = getattr(layout.from_counts(np.array(sizes)), operation)(*inputs, *arguments)
    parts = zip(*(x.split([rows(n) for n in sizes]) for x, (rows, _) in zip(inputs, shapes, strict=True)), strict=True)
    theirs = torch.cat([plain(n, *part) for n, part in zip(sizes, parts, strict=True)])
    _equal(ours, theirs)
    direction = torch.randn_like(theirs)
    _equal(*(torch.autograd.grad((output * direction).sum(), inputs) for output in (ours, theirs)))


@pytest.mark.parametrize("sizes", SETS.values(), ids=SETS)
@pytest.mark.parametrize("training", [False, True])
def test_the_backbone_in_values_and_gradients(sizes, training, monkeypatch):
    monkeypatch.setattr("seqsetvae.models.seqsetvae.set_encoder.EVENT_DROPOUT", 0.0)
    backbone = tiny.tiny_backbone(dtype=torch.float64, transformer_dropout=0.0).train(training)
    backbone.set_encoder.mu_logvar.eval()
    exact, few = (backbone(batch, tiny.embeddings()) for batch in _batches(sizes))
    _equal(few, exact)
    direction = torch.randn_like(exact)
    _equal(_gradients(backbone, (few * direction).sum()), _gradients(backbone, (exact * direction).sum()))


@pytest.mark.parametrize("sizes", SETS.values(), ids=SETS)
def test_the_decoder_and_its_loss_in_values_and_gradients(sizes, monkeypatch):
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


def test_single_precision():
    backbone = tiny.tiny_backbone()
    exact, few = (backbone(b, tiny.embeddings(torch.float32)) for b in _batches(SETS["of all sizes"], np.float32))
    _equal(few, exact, 1e-4)
    direction = torch.randn_like(exact)
    _equal(_gradients(backbone, (few * direction).mean()), _gradients(backbone, (exact * direction).mean()), 1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(dtype):
    backbone = tiny.tiny_backbone()
    with torch.autocast("cpu", dtype=dtype):
        exact, few = (backbone(b, tiny.embeddings(torch.float32)) for b in _batches(SETS["of all sizes"], np.float32))
    assert few.dtype == torch.float32
    _equal(few, exact, 1e-2)


def test_values_in_the_padding_have_no_effect(monkeypatch):
    """On means and minima too, not only on attention: any finite number may be there."""
    batch = _batches([2, 5, 9])[1]
    recon, target = torch.randn(2, len(batch.variable), SIZES.event_dim, dtype=torch.float64)
    loss = losses.reconstruction(recon, target, batch.sizes)
    pad = PaddedSizes.pad
    monkeypatch.setattr(PaddedSizes, "pad", lambda sizes, x: pad(sizes, x, fill=7.0))
    _equal(losses.reconstruction(recon, target, batch.sizes), loss)


def test_sets_are_padded_to_few_sizes_whatever_their_number():
    few = _batches(SETS["of all sizes"])[1].sizes
    assert isinstance(few, PaddedSizes)
    assert few.runs == ((1, 4), (8, 10), (16, 4), (48, 8), (96, 2), (384, 2))
    assert int(few.is_event.sum()) == len(few.event_position) == 2 * sum(SETS["of all sizes"])
