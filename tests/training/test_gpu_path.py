"""What a GPU needs of a training step, as far as it can be seen without one: nothing waits, little is rounded."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import move_data_to_device
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data._utils.pin_memory import pin_memory

from data import CohortDataModule
from model_optimized import SeqSetVAEPretrainer
from seqsetvae.batches.batch import Batch
from seqsetvae.cohort import Cohort
from seqsetvae.models.seqsetvae.decoder import PretrainingModel
from seqsetvae.objectives import reconstruction
from seqsetvae.training.optimizer import adamw, parameter_groups
from seqsetvae.training.stages import StageLoaders
from tests import tiny
from tests.training.helpers import features_of, fine_tuner, make_run

aten = torch.ops.aten
# Operators whose result the host must know before it can go on: a number, or the size of what they return.
WAITING = {
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class _NothingWaits(TorchDispatchMode):
    """Fails at an operator that would hold the host until the device is done."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        assert function not in WAITING, f"{function} waits for the device"
        if function in INDEXED:
            assert all(index is None or index.dtype != torch.bool for index in args[1]), f"{function} by a mask waits"
        if function is aten.repeat_interleave.Tensor:
            assert kwargs.get("output_size") is not None, "the length of the result is on the device"
        return function(*args, **kwargs)


class _Watch(pl.Callback):
    """Every training batch under _NothingWaits: forward, loss, logging, backward, clipping, optimizer."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.mode = _NothingWaits().__enter__()

    def on_train_batch_end(self, *_: Any) -> None:
        self.mode.__exit__(None, None, None)
        self.steps += 1


def _pretrainer(cohort: Cohort) -> SeqSetVAEPretrainer:
    table = torch.from_numpy(cohort.embeddings.copy()).float()
    settings = reconstruction.Settings(max_beta=0.1, beta_warmup_steps=10, free_bits=0.1)
    objective = reconstruction.build_loss(settings, tiny.SIZES)
    return SeqSetVAEPretrainer(PretrainingModel(tiny.SIZES), objective, 1e-4, 0.01, table, cohort.variables)


def _fit(module: pl.LightningModule, data: pl.LightningDataModule, folder: Path, precision: Any = 32) -> int:
    """Train for a few steps; returns how many were watched."""
    watch = _Watch()
    pl.Trainer(
        accelerator="cpu", precision=precision, max_epochs=1, limit_train_batches=3, limit_val_batches=0,
        gradient_clip_val=1.0, callbacks=[watch], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    ).fit(module, datamodule=data)  # fmt: skip
    return watch.steps


@pytest.mark.parametrize("padded_classes", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("what", ["pretraining", "everything"])
def test_no_training_step_waits_for_the_device(what, precision, padded_classes, compiled, tmp_path):
    """With clipping, which Lightning would refuse a fused optimizer that unscales by itself."""
    data = CohortDataModule(compiled, batch_size=8, max_events=10**6, padded_classes=padded_classes)
    module = _pretrainer(compiled) if what == "pretraining" else fine_tuner(compiled)
    if what == "everything":
        module.unfreeze_backbone()
    assert _fit(module, data, tmp_path, precision) == 3


def test_no_step_of_the_head_alone_waits_for_the_device(compiled, tmp_path):
    module = fine_tuner(compiled)
    run = make_run(module, compiled, tmp_path)
    assert _fit(module, StageLoaders(run.data, 1, features_of(module, run).rows), tmp_path) == 3


def test_the_watch_sees_what_waits():
    x = torch.arange(3.0)
    for wait in (x.sum().item, x.nonzero, x.unique, lambda: x[x > 1], lambda: float(x[0]), lambda: bool(x[0] > 0)):
        with pytest.raises(AssertionError, match="wait"), _NothingWaits():
            wait()
    with pytest.raises(AssertionError, match="length"), _NothingWaits():
        torch.repeat_interleave(torch.tensor([2, 1]))


def test_lightning_copies_batches_without_waiting(monkeypatch):
    """It hands the batch to our `to`, whose copies are asynchronous where the memory is pinned."""
    copies: list[bool] = []
    to = torch.Tensor.to

    def watched(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        copies.append(kwargs.get("non_blocking", False))
        return to(tensor, *args, **kwargs)

    batch = tiny.batch_of(tiny.ragged_stays(), padded_classes=True)
    monkeypatch.setattr(torch.Tensor, "to", watched)
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved, Batch)
    assert moved.variable.device.type == "meta"
    assert copies == [True] * len(tiny.tensors_of(batch))


def test_loaders_pin_every_tensor_of_a_batch(monkeypatch):
    """A DataLoader hands an object that it does not know to the object's own `pin_memory`."""
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    batch = tiny.batch_of(tiny.ragged_stays(), padded_classes=True)
    assert isinstance(pin_memory(batch), Batch)
    assert {id(tensor) for tensor in pinned} == {id(tensor) for tensor in tiny.tensors_of(batch)}


class _Precisions(TorchDispatchMode):
    """Types of what each operator reads."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = {arg.dtype for arg in args if isinstance(arg, torch.Tensor) and arg.is_floating_point()}
        self.read.setdefault(function.overloadpacket.__name__, set()).update(read)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("padded_classes", [False, True])
def test_bfloat16_reaches_large_products_only(padded_classes, compiled):
    """Softmax over events, losses and the head stay in float32, and the result within 1e-2 of float32."""
    data = CohortDataModule(compiled, batch_size=20, max_events=10**6, padded_classes=padded_classes)
    module = fine_tuner(compiled, dropout=0.0).eval()
    for batch in data.loader("valid"):
        exact, precisions = module(batch).detach(), _Precisions()
        with torch.autocast("cpu", dtype=torch.bfloat16), precisions:
            mixed = module(batch).detach()
            loss = module.loss(mixed, batch.label)
        assert mixed.dtype == loss.dtype == torch.float32
        assert torch.bfloat16 in precisions.read["mm"] | precisions.read["addmm"]
        for name in ("_softmax", "_log_softmax", "linalg_vector_norm", "nll_loss_forward"):
            assert precisions.read[name] == {torch.float32}, name
        margins = [logits.double().diff(dim=1) for logits in (mixed, exact)]
        scores = [0.5 + 0.5 * margin / (1 + margin.abs()) for margin in margins]  # in (0, 1), so that all count alike
        assert (scores[0] - scores[1]).abs().max() < 1e-2
        assert abs(float(loss - module.loss(exact, batch.label))) < 1e-2


def _trained(optimizer_of: Any, scaler: torch.amp.GradScaler | None = None) -> list[torch.Tensor]:
    """A few clipped steps of a small model; with a scaler, its gradients come scaled."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.GELU(), torch.nn.Linear(7, 3)).double()
    optimizer = optimizer_of(parameter_groups("model", model, 1e-2, 0.1))
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(torch.randn(4, 5, dtype=torch.float64)).square().sum()
        (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.unscale_(optimizer)
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1) > 0.1
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
    return [value.detach() for value in model.parameters()]


def test_fused_steps_are_those_of_plain_adamw_with_clipping_and_with_scaled_gradients():
    plain = _trained(lambda groups: torch.optim.AdamW(groups, foreach=False))
    torch.testing.assert_close(_trained(adamw), plain, rtol=0, atol=1e-12)
    scaled = _trained(adamw, torch.amp.GradScaler("cpu", init_scale=2.0**10))
    torch.testing.assert_close(scaled, plain, rtol=0, atol=1e-12)
