"""Gradient accumulation: an optimizer step gets the gradient of one large batch of the same stays."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from data import CohortDataModule
from model_optimized import SeqSetVAEFineTuner, SeqSetVAEPretrainer
from seqsetvae.batches.batch import Batch
from seqsetvae.batches.loading import SplitBatches
from seqsetvae.cohort import Cohort
from seqsetvae.models.seqsetvae.decoder import Decoder, PretrainingModel
from seqsetvae.objectives import reconstruction
from seqsetvae.tasks.model import Loss
from seqsetvae.training.feature_cache import cached_features
from tests import tiny
from tests.training.helpers import CPU, LOSS, fine_tuner

BATCHES = (16, 8, 3, 20, 13)  # stays in each batch of an epoch: 60 training stays
ACCUMULATE = (2, 3, 4, 8)  # the last group is short: one of 2, two of 3, one of 4, five of 8
LOSSES: dict[str, tuple[float, dict[str, Any]]] = {
    "mean over stays": (1.0, {}),
    "class weights": (6.5, {}),
    "class weights and smoothing": (6.5, {"label_smoothing": 0.1}),
    "focal": (1.0, {"loss": "focal", "focal_alpha": 0.75}),
}


class _Recorded:
    """Without dropout and without a change of weights, so that every step starts from the same model."""

    def train(self, mode: bool = True) -> Any:
        return super().train(False)  # type: ignore[misc]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.steps: list[dict[str, torch.Tensor]] = []
        optimizer = super().configure_optimizers()  # type: ignore[misc]
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        return optimizer

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)  # type: ignore[misc]
        self.steps.append({name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None})  # type: ignore[attr-defined]

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        pass


class _FineTuner(_Recorded, SeqSetVAEFineTuner):
    pass


class _Pretrainer(_Recorded, SeqSetVAEPretrainer):
    pass


def _groups(accumulate: int) -> list[np.ndarray]:
    """The stays of each optimizer step of an epoch."""
    first = np.cumsum([0, *BATCHES])
    starts = [*range(0, len(BATCHES), accumulate), len(BATCHES)]
    return [np.arange(first[a], first[b]) for a, b in itertools.pairwise(starts)]


def _train(module: Any, rows: Dataset[Any], accumulate: int, folder: Path) -> float:
    """One epoch of the BATCHES; returns the training loss of the epoch."""
    batches = [rows[part] for part in np.split(np.arange(sum(BATCHES)), np.cumsum(BATCHES)[:-1])]
    trainer = pl.Trainer(
        accelerator="cpu", precision="64-true", max_epochs=1, accumulate_grad_batches=accumulate, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    assert trainer.global_step == -(-len(BATCHES) // accumulate) == len(module.steps)
    return float(trainer.callback_metrics["train_loss"])


def _assert_equal(module: Any, expected: torch.Tensor, step: dict[str, torch.Tensor]) -> None:
    """The gradient of a step is that of this loss."""
    module.zero_grad()
    expected.backward()
    gradients = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    assert gradients.keys() == step.keys()
    assert any(value.abs().max() > 1e-6 for value in gradients.values())
    for name, value in gradients.items():
        torch.testing.assert_close(step[name], value, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: name + text)


def _fine_tuner(cohort: Cohort, loss: str) -> Any:
    module = fine_tuner(cohort, _FineTuner).double()
    positive_weight, changes = LOSSES[loss]
    module.loss = Loss(replace(LOSS, **changes), positive_weight).double()
    return module


def _check_fine_tuning(module: Any, rows: Dataset[Any], accumulate: int, folder: Path) -> None:
    epoch_loss = _train(module, rows, accumulate, folder)
    for stays, step in zip(_groups(accumulate), module.steps, strict=True):
        batch = rows[stays]
        _assert_equal(module, module.loss(module(batch), batch.label), step)
    epoch = rows[np.arange(sum(BATCHES))]
    assert epoch_loss == pytest.approx(module.loss(module(epoch), epoch.label).item(), abs=1e-6)


@pytest.mark.parametrize(
    ("loss", "accumulate"),
    [
        pytest.param(loss, n, marks=[] if n == 3 or loss == "mean over stays" else pytest.mark.slow)
        for loss, n in itertools.product(LOSSES, ACCUMULATE)
    ],
)
def test_the_head_on_cached_features(loss, accumulate, compiled, tmp_path):
    module = _fine_tuner(compiled, loss)
    data = CohortDataModule(compiled, batch_size=16, max_events=10**6, dtype=np.float64)
    rows = cached_features(module, data, CPU, tmp_path / "features").rows["train"]
    _check_fine_tuning(module, rows, accumulate, tmp_path)
    assert all(name.startswith("head.") for name in module.steps[0])


@pytest.mark.parametrize(("loss", "accumulate"), [("mean over stays", 2), ("class weights", 4), ("focal", 8)])
def test_the_unfrozen_backbone(loss, accumulate, compiled, tmp_path):
    module = _fine_tuner(compiled, loss)
    module.unfreeze_backbone()
    rows = SplitBatches(compiled.split("train"), None, np.float64, change=compiled.variables.z_scores)
    _check_fine_tuning(module, rows, accumulate, tmp_path)


@pytest.mark.parametrize("accumulate", [2, pytest.param(4, marks=pytest.mark.slow), 8])
def test_pretraining_is_a_mean_over_sets(accumulate, compiled, tmp_path, monkeypatch):
    _same_seeds_for_every_set(monkeypatch)
    table = torch.from_numpy(compiled.embeddings.copy()).double()
    settings = reconstruction.Settings(max_beta=0.1, beta_warmup_steps=4, free_bits=0.1)
    objective = reconstruction.build_loss(settings, tiny.SIZES)
    module = _Pretrainer(PretrainingModel(tiny.SIZES).double(), objective, 1e-4, 0.01, table, compiled.variables)
    rows = SplitBatches(compiled.split("train"), None, np.float64, change=compiled.variables.z_scores)
    _train(module.train(), rows, accumulate, tmp_path)
    for number, (stays, step) in enumerate(zip(_groups(accumulate), module.steps, strict=True)):
        recon, kl, _, _ = module.objective.parts(module.model, rows[stays], module.embeddings)
        _assert_equal(module, recon + 0.1 * number / 4 * kl, step)  # beta rises by optimizer steps


def _same_seeds_for_every_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder's seeds depend on the place of an event in its set alone; drawn, they depend on the batch."""
    forward = Decoder.forward

    def with_places(self: Any, states: torch.Tensor, sizes: Any) -> torch.Tensor:
        self.place = torch.cat([torch.arange(size).repeat(count) for size, count in sizes.runs])
        return forward(self, states, sizes)

    def seeds(self: Any, like: torch.Tensor) -> torch.Tensor:
        return torch.cos(self.place[:, None] * (1.0 + torch.arange(like.shape[1], dtype=like.dtype)))

    monkeypatch.setattr(Decoder, "forward", with_places)
    monkeypatch.setattr(Decoder, "_seeds", seeds)
