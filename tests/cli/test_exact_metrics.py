"""Metrics of a run are exact over the whole split, whatever the batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from model_optimized import SeqSetVAEFineTuner
from seqsetvae.batches.batch import Batch
from seqsetvae.batches.loading import CohortDataModule, collate
from seqsetvae.checkpoint.finetuned import load_finetuned
from seqsetvae.cohort import Cohort
from tests.cli.labels import changed_labels
from tests.command import finetune, rows_of, run_of, succeeded
from tests.training.helpers import fine_tuner, load, run_stages


def _score_one_by_one(run: Path, cohort: Cohort, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(label, margin) of every stay, each in a batch of its own."""
    stays = cohort.split(split)
    model = load_finetuned(run / "checkpoints" / "best.ckpt").model
    table = torch.from_numpy(cohort.embeddings.copy()).float()
    with torch.no_grad():
        alone = (collate(stays, np.array([n]), change=cohort.variables.z_scores) for n in range(stays.n_stays))
        logits = torch.cat([model(batch, table) for batch in alone])
    return np.array(stays.label), (logits[:, 1] - logits[:, 0]).numpy()


def test_val_auc_and_val_auprc_equal_those_of_sklearn(finished, compiled):
    label, margin = _score_one_by_one(finished[0], compiled, "valid")
    best = max(rows_of(finished[0]), key=lambda row: float(row["val_auc"]))
    assert float(best["val_auc"]) == pytest.approx(roc_auc_score(label, margin), abs=1e-6)
    assert float(best["val_auprc"]) == pytest.approx(average_precision_score(label, margin), abs=1e-6)


def test_stays_without_a_label_are_left_out_and_counted(pretrained, old_layout, compiled, tmp_path):
    split = compiled.split("valid")
    gone = set(split.stay_id[:4].tolist()) | set(compiled.split("train").stay_id[:2].tolist())
    labels = changed_labels(old_layout, tmp_path / "oc.csv", lambda stay, label: None if stay in gone else label)
    said = succeeded(finetune(pretrained, old_layout, tmp_path, label_path=labels, max_epochs=1))
    assert "Stays without a label, left out: train 2, valid 4, test 0" in said
    label, margin = _score_one_by_one(run_of(tmp_path), compiled, "valid")
    assert float(rows_of(run_of(tmp_path))[0]["val_auc"]) == pytest.approx(
        roc_auc_score(label[4:], margin[4:]), abs=1e-6
    )


class Recording(SeqSetVAEFineTuner):
    """Keeps the labels and logits of each validation, and all names that were logged."""

    def on_validation_epoch_start(self) -> None:
        self.scores: list[tuple[torch.Tensor, torch.Tensor]] = []

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        super().validation_step(batch, batch_index)
        self.scores.append((batch.label, self(batch)))

    def on_train_epoch_end(self) -> None:
        label, logits = (torch.cat(parts) for parts in zip(*self.scores, strict=True))
        self.truth = [*getattr(self, "truth", []), roc_auc_score(label, (logits[:, 1] - logits[:, 0]).detach())]
        self.names = set(self.trainer.callback_metrics)


def test_every_validation_is_exact_and_does_not_count_earlier_ones(compiled, tmp_path):
    module = fine_tuner(compiled, Recording)
    run = run_stages(module, compiled, tmp_path, max_epochs=4)
    assert [row.metrics["val_auc"] for row in run.state.rows] == pytest.approx(module.truth, abs=1e-6)
    assert len(set(module.truth)) > 1
    assert module.names == {"train_loss", "val_loss", "val_auc", "val_auprc"}


def test_val_loss_of_several_processes_counts_every_stay_once(compiled):
    """Stays without a label, which give every process the same number of batches, do not count."""
    module, data = fine_tuner(compiled).eval(), CohortDataModule(compiled, batch_size=16, max_events=10**6)
    losses = []
    for world_size in (1, data.n_selected("valid") + 1):
        loaders = [data.loader("valid", rank=rank, world_size=world_size) for rank in range(world_size)]
        batches = [batch for loader in loaders for batch in loader]
        for index, batch in enumerate(batches):
            module.validation_step(batch, index)
        losses.append(module.val_loss.compute_and_reset().item())
    assert sum(int((batch.label == -1).sum()) for batch in batches) > 0
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


class RecordingLosses(SeqSetVAEFineTuner):
    """Keeps (loss, stays) of every training batch."""

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_index)
        self.said = [*getattr(self, "said", []), (loss.item(), batch.n_stays)]
        return loss


def test_train_loss_is_the_mean_over_the_stays_of_its_epoch(compiled, tmp_path):
    module = fine_tuner(compiled, RecordingLosses)
    run = run_stages(module, compiled, tmp_path, max_epochs=3)
    losses, stays = (np.array(column).reshape(3, -1) for column in zip(*module.said, strict=True))
    assert len(set(stays[0])) > 1  # the last batch is smaller
    expected = (losses * stays).sum(axis=1) / stays.sum(axis=1)
    assert [row.metrics["train_loss"] for row in run.state.rows] == pytest.approx(expected.tolist(), abs=1e-6)


def test_deterministic_runs_are_equal_to_the_last_bit(pretrained, compiled, tmp_path):
    states = []
    for name in ("one", "other"):
        flags = {"max_epochs": 2, "unfreeze_after": 1, "deterministic": "true"}
        succeeded(finetune(pretrained, compiled.path, tmp_path / name, **flags))
        states.append(load(run_of(tmp_path / name) / "checkpoints" / "last.ckpt")["state_dict"])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
