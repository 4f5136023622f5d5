"""--compile_model: the same function, the same checkpoint keys, few recompilations."""

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from seqsetvae.models.seqsetvae import reference as plain
from seqsetvae.models.seqsetvae.backbone import Backbone
from seqsetvae.models.seqsetvae.decoder import PretrainingModel
from seqsetvae.models.seqsetvae.set_encoder import MAB
from tests import tiny


def _run(backbone: Backbone, stays: list[list[plain.PlainSet]]) -> torch.Tensor:
    return backbone(tiny.batch_of(stays, np.float32), tiny.embeddings(torch.float32))


def _different_batches() -> list[list[list[plain.PlainSet]]]:
    """Batches that differ in stays, longest stay, sets, events and sizes of sets."""
    rng = np.random.default_rng(1)
    return [
        [tiny.random_stay(rng, rng.integers(1, 9, int(rng.integers(2, 12))).tolist()) for _ in range(n)]
        for n in (3, 2, 5, 4, 7)
    ]


def _breaks_at_the_grids_only() -> None:
    """Graphs end where grids begin, whose number differs from batch to batch, and nowhere else."""
    assert all("causal_attention" in reason for reason in counters["graph_break"])


def test_compiling_changes_no_checkpoint_key_and_no_value():
    """The parts with fixed widths are compiled in place; `eager` runs dynamo's graphs without a C++ compiler."""
    backbone, eager = tiny.tiny_backbone(), tiny.tiny_backbone()
    torch._dynamo.reset()
    counters.clear()
    for module in backbone.set_encoder.modules():
        if isinstance(module, MAB):
            module.compile(dynamic=True, backend="eager")
    for layer in backbone.transformer.layers:
        layer.compile(dynamic=True, backend="eager")
    for stays in _different_batches():
        torch.testing.assert_close(_run(backbone, stays), _run(eager, stays), rtol=0, atol=1e-5)
    assert backbone.state_dict().keys() == eager.state_dict().keys()
    _breaks_at_the_grids_only()
    assert sum(counters["recompiles"].values()) <= 4


def test_what_pretraining_compiles_is_what_it_runs(monkeypatch):
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(MAB, "compile", lambda block, **_: compiled.append(block))
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)
    model = PretrainingModel(tiny.SIZES)
    model.compile_dense_parts()
    used = [block for part in (model.set_encoder.encoder_layers, model.decoder) for block in part.modules()]
    assert set(compiled) == {block for block in used if isinstance(block, MAB)}


@pytest.mark.slow
def test_compiled_training_and_evaluation_equal_eager_with_few_recompilations():
    """The real compiler over batches of many shapes, values and gradients, frozen and not."""
    torch._dynamo.reset()
    counters.clear()
    backbone, eager = tiny.tiny_backbone(), tiny.tiny_backbone()
    backbone.compile_dense_parts()
    assert backbone.state_dict().keys() == eager.state_dict().keys()
    compiled_graphs = []
    for stays in _different_batches():
        fast, slow = _run(backbone, stays), _run(eager, stays)
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-4)
        for model, output in ((backbone, fast), (eager, slow)):
            model.zero_grad()
            output.square().mean().backward()
        for (name, ours), theirs in zip(backbone.named_parameters(), eager.parameters(), strict=True):
            assert (ours.grad is None) == (theirs.grad is None), name
            if ours.grad is not None:
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)
        with torch.no_grad():
            torch.testing.assert_close(_run(backbone, stays), slow, rtol=0, atol=1e-4)
        compiled_graphs.append(counters["stats"]["unique_graphs"])
    assert compiled_graphs[-1] == compiled_graphs[0]  # after the first batch nothing is compiled any more
    _breaks_at_the_grids_only()
