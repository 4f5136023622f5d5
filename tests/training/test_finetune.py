"""The main job through the command: files, figures, repeatability, and what stops it."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

import train_optimized
from model_optimized import SeqSetVAEFineTuner
from seqsetvae import files
from seqsetvae.batch import Batch
from seqsetvae.checkpoint import read_checkpoint, read_file
from seqsetvae.cohort import Cohort
from seqsetvae.errors import InputError
from seqsetvae.evaluation.load import load_finetuned
from seqsetvae.files import cannot_write
from seqsetvae.loading import collate
from seqsetvae.settings import SMALL
from seqsetvae.training import callbacks
from seqsetvae.training.checkpoints import best_checkpoint
from seqsetvae.training.run_folder import RunFolder, find_checkpoint
from seqsetvae.training.run_state import Row
from seqsetvae.training.schedule import VAL_AUC
from seqsetvae.training.summary import loading_advice
from tests import tiny
from tests.training.helpers import fine_tuner, load, run_stages

Command = Callable[..., tuple[int, str, str]]
TIMES = {"stays_per_second", "waiting", "seconds"}


def command(*argv: object) -> tuple[int, str, str]:
    """(status, stdout, stderr) of train_optimized.py."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = train_optimized.main([str(word) for word in argv])
    return status, out.getvalue(), err.getvalue()


def finetune(pretrained: Path, data_dir: Path, root: Path, *more: object) -> tuple[int, str, str]:
    """A small fine-tuning run; later flags win."""
    return command(
        "--mode",
        "finetune",
        "--pretrained_ckpt",
        pretrained,
        "--data_dir",
        data_dir,
        "--output_root_dir",
        root,
        "--batch_size",
        4,
        "--max_epochs",
        3,
        "--unfreeze_after",
        2,
        "--cls_head_lr",
        3e-3,
        "--lr",
        1e-3,
        "--warmup_steps",
        5,
        "--seed",
        3,
        "--accelerator",
        "cpu",
        *more,
    )


def run_of(root: Path) -> Path:
    (run,) = root.glob("finetune-*")
    return run


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        return [{name: cell for name, cell in row.items() if name not in TIMES} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def finished(pretrained: Path, old_layout: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(run folder, what was printed) of a run on the old layout, in a folder with a space and an umlaut."""
    root = tmp_path_factory.mktemp("runs") / "Läufe und mehr"
    status, said, errors = finetune(pretrained, old_layout, root)
    assert status == 0, errors
    return run_of(root), said


# ------------------------------------------------------------------------------------------------ what a run leaves


def test_a_run_folder_holds_exactly_this(finished: tuple[Path, str]) -> None:
    run, _ = finished
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    (events,) = (name for name in files if name.startswith("tensorboard/events.out.tfevents."))
    assert files == {
        "config.json",
        "metrics.csv",
        "run_state.json",
        "summary.json",
        "summary.txt",
        "train.log",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        events,
    }
    assert {path.name for path in run.parent.iterdir()} == {run.name, "cohorts", "features"}


def test_the_config_of_a_run_is_complete(finished: tuple[Path, str], compiled: Cohort) -> None:
    config = json.loads((finished[0] / "config.json").read_text(encoding="utf-8"))
    assert config["settings"]["batch_size"] == 4
    assert config["settings"]["head_dropout"] == 0.1
    assert config["sizes"]["latent_dim"] == 32
    assert config["partial_backbone"] is False
    assert config["pretrained"]["missing"] == []
    assert config["cohort"]["content"] == compiled.content_hash
    assert Path(config["cohort"]["path"]).is_absolute()


def test_a_run_says_what_was_loaded_and_how_it_goes(finished: tuple[Path, str]) -> None:
    _, said = finished
    n_weights = len(tiny.tiny_backbone().state_dict())
    assert f"✅ Loaded {n_weights} parameters successfully" in said
    for text in (
        "Data: ",
        "epoch  stage  train_loss  val_loss  val_auc  val_auprc  stays/s",
        "\n  1/3      1 ",
        "\n  3/3      2 ",
        "Best val_auc",
        "training stays/s",
        "waiting for data",
        "values trained",
        "device",
    ):
        assert text in said
    assert "\x1b" not in said  # no control codes where nobody looks at a terminal


def test_train_log_holds_all_that_was_printed(finished: tuple[Path, str]) -> None:
    run, printed = finished
    assert (run / "train.log").read_text(encoding="utf-8") == printed


def test_the_summary_is_that_of_the_table(finished: tuple[Path, str]) -> None:
    run, _ = finished
    rows, summary = rows_of(run), json.loads((run / "summary.json").read_text(encoding="utf-8"))
    best = max(rows, key=lambda row: float(row["val_auc"]))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["stage"] for row in rows] == ["1", "1", "2"]
    assert best["val_auc"] in [str(value) for value in _leaves(summary)]
    assert (run / "summary.txt").read_text(encoding="utf-8").startswith("Best val_auc")


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list) else [value]


def test_checkpoints_load_without_any_allow_list(finished: tuple[Path, str]) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        content = load(finished[0] / "checkpoints" / name)
        assert {"state_dict", "hyper_parameters", "optimizer_states", "callbacks"} <= content.keys()


def test_checkpoints_tell_no_paths_and_know_their_best_in_a_moved_folder(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    run, _ = finished
    for name in ("best", "last"):
        assert str(run.parent) not in repr(
            torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["callbacks"]
        )
    moved = RunFolder(tmp_path / "moved")
    shutil.copytree(run, moved.path)
    states = torch.load(moved.last, weights_only=True)["callbacks"]
    best = best_checkpoint(moved, VAL_AUC)
    best.load_state_dict(states[best.state_key])
    table = list(csv.DictReader((run / "metrics.csv").open()))
    assert float(best.best_model_score) == pytest.approx(max(float(row["val_auc"]) for row in table))
    assert Path(best.best_model_path) == moved.best


def test_a_fine_tuned_checkpoint_gives_its_backbone_back(finished: tuple[Path, str]) -> None:
    best = finished[0] / "checkpoints" / "best.ckpt"
    checkpoint, state = read_checkpoint(best), load(best)["state_dict"]
    for name in tiny.tiny_backbone().state_dict():
        assert torch.equal(checkpoint.weights[name], state[f"backbone.{name}"])
    assert checkpoint.hyper_parameters["heads"] == 2
    assert checkpoint.fingerprints


# ------------------------------------------------------------------------------------------------ exact figures


def _score_one_by_one(run: Path, cohort: Cohort, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(label, margin) of every stay, each in a batch of its own."""
    stays = cohort.split(split)
    model = load_finetuned(run / "checkpoints" / "best.ckpt").model
    table = torch.from_numpy(cohort.embeddings.copy()).float()
    with torch.no_grad():
        logits = torch.cat([model(collate(stays, np.array([n])), table) for n in range(stays.n_stays)])
    return np.array(stays.label), (logits[:, 1] - logits[:, 0]).numpy()


def test_val_auc_and_val_auprc_are_those_of_sklearn(finished: tuple[Path, str], compiled: Cohort) -> None:
    label, margin = _score_one_by_one(finished[0], compiled, "valid")
    best = max(rows_of(finished[0]), key=lambda row: float(row["val_auc"]))
    assert float(best["val_auc"]) == pytest.approx(roc_auc_score(label, margin), abs=1e-6)
    assert float(best["val_auprc"]) == pytest.approx(average_precision_score(label, margin), abs=1e-6)


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


def test_every_validation_is_exact_and_counts_no_other(compiled: Cohort, tmp_path: Path) -> None:
    module = fine_tuner(compiled, Recording)
    run = run_stages(module, compiled, tmp_path, max_epochs=4)
    assert [row.metrics["val_auc"] for row in run.state.rows] == pytest.approx(module.truth, abs=1e-6)
    assert len(set(module.truth)) > 1
    assert module.names == {"train_loss", "val_loss", "val_auc", "val_auprc"}


class RecordingLosses(SeqSetVAEFineTuner):
    """Keeps (loss, stays) of every training batch."""

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_index)
        self.said = [*getattr(self, "said", []), (loss.item(), batch.n_stays)]
        return loss


def test_train_loss_is_the_mean_over_the_stays_of_its_epoch(compiled: Cohort, tmp_path: Path) -> None:
    module = fine_tuner(compiled, RecordingLosses)
    run = run_stages(module, compiled, tmp_path, max_epochs=3)
    losses, stays = (np.array(column).reshape(3, -1) for column in zip(*module.said, strict=True))
    assert len(set(stays[0])) > 1  # the last batch is smaller
    expected = (losses * stays).sum(axis=1) / stays.sum(axis=1)
    assert [row.metrics["train_loss"] for row in run.state.rows] == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_evaluate_gives_the_best_val_auc_for_any_batch_size(
    finished: tuple[Path, str], compiled: Cohort, batch_size: int
) -> None:
    run, _ = finished
    status, said, _ = command(
        "--mode",
        "evaluate",
        "--ckpt",
        run,
        "--split",
        "valid",
        "--batch_size",
        batch_size,
        "--output_root_dir",
        run.parent,
        "--accelerator",
        "cpu",
    )
    best = max(rows_of(run), key=lambda row: float(row["val_auc"]))
    assert status == 0
    assert f"AUROC {float(best['val_auc']):.4f}\n  AUPRC {float(best['val_auprc']):.4f}\n" in said
    assert "split valid: 20 stays" in said


def test_evaluate_reads_a_checkpoint_and_other_data_too(finished: tuple[Path, str], compiled: Cohort) -> None:
    run, _ = finished
    _, said, _ = command(
        "--mode",
        "evaluate",
        "--ckpt",
        run / "checkpoints" / "last.ckpt",
        "--split",
        "test",
        "--data_dir",
        compiled.path,
        "--accelerator",
        "cpu",
    )
    label = compiled.split("test").label
    assert f"split test: {len(label)} stays, {int((label == 1).sum())} positive" in said


def test_evaluate_cuts_stays_as_the_run_did(pretrained: Path, compiled: Cohort, tmp_path: Path) -> None:
    assert finetune(pretrained, compiled.path, tmp_path, "--max_sets", 3, "--max_epochs", 1)[0] == 0
    run = run_of(tmp_path)
    _, said, _ = command("--mode", "evaluate", "--ckpt", run, "--split", "valid", "--accelerator", "cpu")
    assert "Stays shortened to their last 3 sets" in said
    assert f"AUROC {float(rows_of(run)[0]['val_auc']):.4f}\n" in said
    status, _, errors = command("--mode", "evaluate", "--ckpt", run, "--split", "valid", "--max_sets", 4)
    assert status == 2
    assert "max_sets: received 4" in errors


def test_scores_that_are_no_numbers_are_never_ranked(finished: tuple[Path, str], tmp_path: Path) -> None:
    content = torch.load(finished[0] / "checkpoints" / "best.ckpt", weights_only=True)
    content["state_dict"]["head.net.0.weight"].fill_(float("nan"))
    torch.save(content, tmp_path / "broken.ckpt")
    data = json.loads((finished[0] / "config.json").read_text(encoding="utf-8"))["cohort"]["path"]
    status, said, errors = command(
        "--mode", "evaluate", "--ckpt", tmp_path / "broken.ckpt", "--split", "valid", "--data_dir", data
    )
    assert status == 1
    assert "NaN or infinite for stay" in errors
    assert "AUROC" not in said


# ------------------------------------------------------------------------------------------------ the same again


def test_the_same_seed_gives_the_same_run(
    finished: tuple[Path, str], pretrained: Path, old_layout: Path, tmp_path: Path
) -> None:
    assert finetune(pretrained, old_layout, tmp_path)[0] == 0
    assert rows_of(run_of(tmp_path)) == rows_of(finished[0])


def test_a_compiled_cohort_and_worker_processes_give_the_same_run(
    finished: tuple[Path, str], pretrained: Path, compiled: Cohort, tmp_path: Path
) -> None:
    assert finetune(pretrained, compiled.path, tmp_path, "--num_workers", 2)[0] == 0
    assert rows_of(run_of(tmp_path)) == rows_of(finished[0])


def test_a_second_run_uses_the_cached_features_of_the_frozen_backbone(
    pretrained: Path, compiled: Cohort, tmp_path: Path
) -> None:
    frozen = ("--max_epochs", 2, "--unfreeze_after", 2)
    _, first, _ = finetune(pretrained, compiled.path, tmp_path, *frozen)
    (run,) = tmp_path.glob("finetune-*")
    status, second, errors = finetune(pretrained, compiled.path, tmp_path, *frozen)
    assert status == 0, errors
    (again,) = set(tmp_path.glob("finetune-*")) - {run}
    assert rows_of(again) == rows_of(run)
    assert "Computed the features of the frozen backbone: 60 train stays" in first
    assert "Cached features of the frozen backbone: 60 train stays, from" in second
    assert "Computed the features" not in second
    assert "waiting for data        no data were read" in second
    assert json.loads((again / "summary.json").read_text())["waiting"] is None


def test_another_seed_gives_another_run(
    finished: tuple[Path, str], pretrained: Path, compiled: Cohort, tmp_path: Path
) -> None:
    assert finetune(pretrained, compiled.path, tmp_path, "--seed", 4, "--max_epochs", 1)[0] == 0
    assert rows_of(run_of(tmp_path))[0]["train_loss"] != rows_of(finished[0])[0]["train_loss"]


# ------------------------------------------------------------------------------------------------ other ways to run


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train_and_evaluate_to_the_same_figure(
    precision: str, pretrained: Path, compiled: Cohort, tmp_path: Path
) -> None:
    status, _, errors = finetune(
        pretrained, compiled.path, tmp_path, "--precision", precision, "--max_epochs", 2, "--unfreeze_after", 1
    )
    assert status == 0, errors
    run = run_of(tmp_path)
    _, said, _ = command(
        "--mode", "evaluate", "--ckpt", run, "--split", "valid", "--precision", precision, "--accelerator", "cpu"
    )
    assert f"AUROC {max(float(row['val_auc']) for row in rows_of(run)):.4f}\n" in said
    state = load(run / "checkpoints" / "best.ckpt")["state_dict"]
    assert {value.dtype for value in state.values()} == {torch.float64 if precision == "64-true" else torch.float32}


@pytest.mark.parametrize(
    "flags",
    [
        ("--loss", "focal", "--focal_alpha", 0.25),
        ("--class_weight", "balanced"),
        ("--head_pooling", "mean", "--gradient_accumulation_steps", 3),
    ],
    ids=str,
)
def test_other_losses_and_heads_run(
    flags: tuple[object, ...], pretrained: Path, compiled: Cohort, tmp_path: Path
) -> None:
    status, _, errors = finetune(pretrained, compiled.path, tmp_path, *flags, "--max_epochs", 1, "--unfreeze_after", 0)
    assert status == 0, errors


def test_balanced_weighs_a_positive_by_negatives_over_positives(
    pretrained: Path, compiled: Cohort, tmp_path: Path
) -> None:
    assert finetune(pretrained, compiled.path, tmp_path, "--class_weight", "balanced", "--max_epochs", 1)[0] == 0
    label = compiled.split("train").label
    saved = load(run_of(tmp_path) / "checkpoints" / "best.ckpt")["hyper_parameters"]["loss"]
    assert saved["positive_weight"] == float((label == 0).sum() / (label == 1).sum()) > 1


def test_a_checkpoint_with_numpy_numbers_fine_tunes_to_plain_files(compiled: Cohort, tmp_path: Path) -> None:
    content = tiny.checkpoint_content(tiny.tiny_backbone(), "pretrained")
    content["hyper_parameters"] |= {"heads": np.int64(2), "transformer_dropout": np.float64(0.1)}
    torch.save(content, tmp_path / "old.ckpt")
    status, _, errors = finetune(tmp_path / "old.ckpt", compiled.path, tmp_path, "--max_epochs", 1)
    assert status == 0, errors
    assert load(run_of(tmp_path) / "checkpoints" / "best.ckpt")["hyper_parameters"]["sizes"]["heads"] == 2


def test_a_partial_backbone_is_recorded(compiled: Cohort, tmp_path: Path) -> None:
    path = tiny.write_checkpoint(tmp_path / "setvae.ckpt", tiny.tiny_backbone(), "setvae alone")
    small = ("--ff_dim", 48, "--transformer_heads", 4, "--transformer_layers", 2)
    status, _, errors = finetune(path, compiled.path, tmp_path / "refused", *small)
    assert status == 2
    assert "SetVAE alone" in errors
    assert not (tmp_path / "refused").exists() or not list((tmp_path / "refused").glob("finetune-*"))
    status, _, errors = finetune(path, compiled.path, tmp_path, *small, "--max_epochs", 1, "--allow_partial_backbone")
    assert status == 0, errors
    config = json.loads((run_of(tmp_path) / "config.json").read_text(encoding="utf-8"))
    assert config["partial_backbone"] is True
    assert "post_transformer_norm.weight" in config["pretrained"]["missing"]


def test_random_weights_are_recorded(compiled: Cohort, tmp_path: Path) -> None:
    status, out, errors = command(
        "--mode", "finetune", "--from_random_weights", "--data_dir", compiled.path, "--output_root_dir", tmp_path,
        "--preset", "small", "--unfreeze_after", 0, "--max_epochs", 1, "--batch_size", 8, "--accelerator", "cpu",
    )  # fmt: skip
    assert status == 0, errors
    assert "RANDOM BACKBONE" in out
    assert "Random backbone: nothing was pretrained" in (run_of(tmp_path) / "summary.txt").read_text(encoding="utf-8")
    config = json.loads((run_of(tmp_path) / "config.json").read_text(encoding="utf-8"))
    assert config["pretrained"] is None
    assert config["sizes"]["latent_dim"] == SMALL["latent_dim"]


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_figures_and_checkpoint_keys(
    finished: tuple[Path, str], pretrained: Path, compiled: Cohort, tmp_path: Path
) -> None:
    status, _, errors = finetune(pretrained, compiled.path, tmp_path, "--compile_model")
    assert status == 0, errors
    run = run_of(tmp_path)
    keys = [load(folder / "checkpoints" / "best.ckpt")["state_dict"].keys() for folder in (run, finished[0])]
    assert keys[0] == keys[1]
    frozen = [float(rows_of(folder)[0]["val_auc"]) for folder in (run, finished[0])]
    assert frozen[0] == pytest.approx(frozen[1], abs=1e-3)


# ------------------------------------------------------------------------------------------------ what stops it


def test_scores_that_are_no_numbers_end_the_run_without_a_best(
    pretrained: Path, compiled: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, pooled: torch.Tensor) -> torch.Tensor:
        return self.net(pooled) * (1.0 if self.training else float("nan"))

    monkeypatch.setattr("seqsetvae.head.Head.forward", broken)
    status, _, errors = finetune(pretrained, compiled.path, tmp_path)
    assert status == 1
    assert "val_auc is not finite" in errors
    assert list((run_of(tmp_path) / "checkpoints").iterdir()) == []


def test_a_later_breakdown_keeps_the_earlier_best(
    pretrained: Path, compiled: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, pooled: torch.Tensor) -> torch.Tensor:
        self.validated = getattr(self, "validated", 0) + (not self.training)
        return self.net(pooled) * (1.0 if self.validated <= 5 else float("nan"))  # five batches: the first validation

    monkeypatch.setattr("seqsetvae.head.Head.forward", broken)
    status, _, errors = finetune(pretrained, compiled.path, tmp_path)
    assert status == 1
    assert "val_auc is not finite" in errors
    state = load(run_of(tmp_path) / "checkpoints" / "best.ckpt")["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
    assert len(rows_of(run_of(tmp_path))) == 1


def _labels(old_layout: Path, target: Path, change: Callable[[int, str], str | None]) -> Path:
    """A copy of oc.csv with each label changed, or its line left out for None."""
    with (old_layout.parent / "oc.csv").open(encoding="utf-8") as file:
        rows = [(row["ts_id"], change(int(row["ts_id"]), row["in_hospital_mortality"])) for row in csv.DictReader(file)]
    lines = [f"{stay},{label}" for stay, label in rows if label is not None]
    target.write_text("\n".join(["ts_id,in_hospital_mortality", *lines]) + "\n", encoding="utf-8")
    return target


def test_a_validation_split_of_one_class_stops_before_training(
    pretrained: Path, old_layout: Path, compiled: Cohort, tmp_path: Path
) -> None:
    valid = set(compiled.split("valid").stay_id.tolist())
    labels = _labels(old_layout, tmp_path / "oc.csv", lambda stay, label: "0" if stay in valid else label)
    status, _, errors = finetune(pretrained, old_layout, tmp_path, "--label_path", labels)
    assert status == 2
    assert "split 'valid' has 20 stays of class 0, 0 of class 1" in errors
    assert not list(tmp_path.glob("finetune-*"))


def test_stays_without_a_label_are_left_out_and_counted(
    pretrained: Path, old_layout: Path, compiled: Cohort, tmp_path: Path
) -> None:
    split = compiled.split("valid")
    gone = set(split.stay_id[:4].tolist()) | set(compiled.split("train").stay_id[:2].tolist())
    labels = _labels(old_layout, tmp_path / "oc.csv", lambda stay, label: None if stay in gone else label)
    status, said, errors = finetune(pretrained, old_layout, tmp_path, "--label_path", labels, "--max_epochs", 1)
    assert status == 0, errors
    assert "Stays without a label, left out: train 2, valid 4, test 0" in said
    label, margin = _score_one_by_one(run_of(tmp_path), compiled, "valid")
    assert float(rows_of(run_of(tmp_path))[0]["val_auc"]) == pytest.approx(
        roc_auc_score(label[4:], margin[4:]), abs=1e-6
    )


def test_a_checkpoint_knows_the_statistics_it_was_trained_with(
    finished: tuple[Path, str], old_layout: Path, tmp_path: Path
) -> None:
    """Evaluating on data with another stats.csv names the variables that mean something else there."""
    stats = (old_layout.parent / "stats.csv").read_text(encoding="utf-8").splitlines()
    changed = [line if not line.startswith("lactate,") else "lactate,2.5,0.8" for line in stats]
    (tmp_path / "stats.csv").write_text("\n".join(changed) + "\n", encoding="utf-8")
    status, _, errors = command(
        "--mode",
        "evaluate",
        "--ckpt",
        finished[0],
        "--split",
        "valid",
        "--data_dir",
        old_layout,
        "--params_map_path",
        tmp_path / "stats.csv",
        "--output_root_dir",
        tmp_path,
    )
    assert status == 2
    assert "was trained with another mean, std or embedding of 1 variables: lactate." in errors


def test_statistics_of_the_train_split_are_a_warning_where_the_checkpoint_does_not_say_its_own(
    finished: tuple[Path, str], pretrained: Path, old_layout: Path, tmp_path: Path
) -> None:
    warning = "There was no stats.csv: mean and std of each variable are those of this cohort's train split"
    assert read_checkpoint(pretrained).fingerprints is None
    assert warning not in finished[1]
    shutil.copytree(old_layout.parent, tmp_path / "data")
    (tmp_path / "data" / "stats.csv").unlink()
    status, said, errors = finetune(pretrained, tmp_path / "data", tmp_path, "--max_epochs", 1)
    assert status == 0, errors
    assert warning in said
    assert "a checkpoint needs the stats.csv it was trained with" in said


def test_embeddings_of_another_width_are_refused(pretrained: Path, old_layout: Path, tmp_path: Path) -> None:
    shutil.copytree(old_layout.parent, tmp_path / "data")
    (tmp_path / "data" / "cached.csv").unlink()
    status, _, errors = finetune(pretrained, tmp_path / "data", tmp_path)
    assert status == 2
    assert "width 12" in errors
    assert "width 768" in errors
    assert "--embeddings_path" in errors


def test_a_pretrained_checkpoint_cannot_be_evaluated(pretrained: Path, compiled: Cohort) -> None:
    status, _, errors = command(
        "--mode", "evaluate", "--ckpt", pretrained, "--split", "valid", "--data_dir", compiled.path
    )
    assert status == 2
    assert "not a checkpoint of a fine-tuning run" in errors


def test_a_folder_that_is_no_run_is_said(tmp_path: Path) -> None:
    status, _, errors = command("--mode", "evaluate", "--ckpt", tmp_path, "--split", "valid")
    assert status == 2
    assert "best.ckpt" in errors


def test_a_checkpoint_without_its_run_needs_data_dir(finished: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(finished[0] / "checkpoints" / "best.ckpt", tmp_path / "checkpoints")
    status, _, errors = command("--mode", "evaluate", "--ckpt", tmp_path, "--split", "valid")
    assert status == 2
    assert "pass --data_dir" in errors


def test_a_folder_for_runs_that_cannot_be_made_is_said(pretrained: Path, compiled: Cohort, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    status, _, errors = finetune(pretrained, compiled.path, tmp_path / "file" / "below")
    assert status == 2
    assert "--output_root_dir" in errors


def test_a_head_that_learns_no_faster_than_the_backbone_is_remarked_on(
    pretrained: Path, compiled: Cohort, tmp_path: Path
) -> None:
    _, usual, _ = finetune(pretrained, compiled.path, tmp_path / "a", "--max_epochs", 1)
    _, said, _ = finetune(pretrained, compiled.path, tmp_path / "b", "--max_epochs", 1, "--lr", 3e-3)
    assert "lr (0.003, backbone) should be well below cls_head_lr (0.003, head)" in said
    assert "should be well below" not in usual


@pytest.mark.parametrize(("workers", "advice"), [(0, "local disk"), (2, "pass --num_workers 0")])
def test_waiting_for_data_names_its_cause(workers: int, advice: str) -> None:
    (line,) = loading_advice(0.5, workers)
    assert "50% of the time" in line
    assert advice in line
    assert loading_advice(0.05, workers) == loading_advice(None, workers) == []


# ------------------------------------------------------------------------------------------------ run folders


def test_run_folders_never_collide(tmp_path: Path) -> None:
    folders = {RunFolder.create(tmp_path, "finetune").path for _ in range(3)}
    assert len(folders) == 3
    assert all((path / "checkpoints").is_dir() for path in folders)


def test_files_of_a_run_appear_whole(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "finetune")
    run.write_json("config.json", {"name": "Müller"})
    assert run.read_json("config.json") == {"name": "Müller"}
    assert {path.name for path in run.path.iterdir()} == {"config.json", "checkpoints"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json: damaged, it is not JSON"),
        ("[]", "config.json: damaged, it holds a list and not an object"),
        ("{}", "config.json: does not record the data of the run; pass --data_dir"),
        ('{"cohort": 3}', "config.json: does not record the data"),
        ('{"cohort": {"path": 3}}', "config.json: does not record the data"),
        (b"\xff", "config.json: damaged, it is not JSON"),
    ],
)
def test_a_config_json_that_cannot_be_used_is_one_error(
    finished: tuple[Path, str], tmp_path: Path, text: str | bytes, message: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished[0], run)
    (run / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    status, _, errors = command("--mode", "evaluate", "--ckpt", run, "--split", "test", "--output_root_dir", tmp_path)
    assert status == 2
    assert message in errors
    assert errors.count("\n") == 1


def test_a_new_run_removes_what_killed_runs_left_in_their_folders(tmp_path: Path) -> None:
    old = RunFolder.create(tmp_path, "finetune")
    leftovers = [
        old.checkpoints / f".best.ckpt.partial-{files._HOST}-01234567",
        old.path / f".summary.json.partial-{files._HOST}-01234567",
    ]
    for leftover in leftovers:
        leftover.write_text("half a file")
    old.best.write_text("best")
    RunFolder.create(tmp_path, "finetune")
    assert [leftover.exists() for leftover in leftovers] == [False, False]
    assert old.best.exists()


# ------------------------------------------------------------------------------------------------ a full disk


def _stage_1(pretrained: Path, cohort: Cohort, root: Path) -> Path:
    status, _, errors = finetune(pretrained, cohort.path, root, "--max_epochs", 2, "--unfreeze_after", 2)
    assert status == 0, errors
    return run_of(root)


def test_a_full_disk_in_stage_2_leaves_the_best_of_stage_1(pretrained: Path, compiled: Cohort, tmp_path: Path) -> None:
    """Checkpoints of stage 2 are larger, since they hold the optimizer's state of the backbone too."""
    alone = _stage_1(pretrained, compiled, tmp_path / "stage 1 alone")
    size = (alone / "checkpoints" / "best.ckpt").stat().st_size
    with tiny.largest_file(size + size // 5):
        status, said, errors = finetune(pretrained, compiled.path, tmp_path / "full", "--unfreeze_after", 2)
    run = run_of(tmp_path / "full")
    assert status == 2
    assert "\n  2/3      1 " in said
    assert errors.count("\n") == 1
    assert errors.startswith(f"error: {run / 'checkpoints'}")
    assert "cannot be written (File too large). Free disk space" in errors
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    for name in ("best.ckpt", "last.ckpt"):
        kept, whole = (read_file(folder / "checkpoints" / name)["state_dict"] for folder in (run, alone))
        assert all(torch.equal(kept[key], whole[key]) for key in whole)


def test_a_table_that_cannot_be_appended_to_is_one_error(
    pretrained: Path, compiled: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise cannot_write(path, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(callbacks, "append_text", full)
    status, _, errors = finetune(pretrained, compiled.path, tmp_path)
    assert status == 2
    assert errors.count("\n") == 1
    assert "metrics.csv: cannot be written (No space left on device)" in errors


def test_curves_that_cannot_be_written_are_one_error(
    compiled: Cohort, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = callbacks.MetricsTable(tmp_path / "metrics.csv", tmp_path / "tensorboard")
    row = Row(1, 1, 1, {"val_auc": 0.5}, {"lr_head": 0.1}, 1.0, None, 1.0)
    with pytest.raises(InputError, match=r"tensorboard: cannot be written .File too large"), tiny.largest_file(100):
        table.add(row)
    table.close()
    assert "Traceback" not in capfd.readouterr().err


def test_a_checkpoint_finds_its_run(finished: tuple[Path, str], pretrained: Path) -> None:
    run, _ = finished
    best = run / "checkpoints" / "best.ckpt"
    for given in (run, best):
        path, folder = find_checkpoint(given)
        assert path == best
        assert folder is not None
        assert folder.path.samefile(run)
    assert find_checkpoint(pretrained) == (pretrained, None)


def test_evaluate_scores_what_the_run_was_trained_to_predict(
    pretrained: Path, old_layout: Path, tmp_path: Path
) -> None:
    """A second label in oc.csv: evaluating on the old layout takes the run's, and another one is refused."""
    processed = tmp_path / "processed"
    shutil.copytree(old_layout.parent, processed)
    with (processed / "oc.csv").open(newline="") as file:
        rows = [(row["ts_id"], row["in_hospital_mortality"]) for row in csv.DictReader(file)]
    lines = ["ts_id,in_hospital_mortality,survived", *(f"{stay},{died},{1 - int(died)}" for stay, died in rows)]
    (processed / "oc.csv").write_text("\n".join(lines) + "\n")
    status, printed, _ = finetune(pretrained, processed, tmp_path / "runs", "--label_name", "survived")
    assert status == 0
    run = next((tmp_path / "runs").glob("finetune-*"))
    flags = ["--ckpt", str(run), "--split", "valid", "--data_dir", str(processed)]
    flags += ["--output_root_dir", str(tmp_path / "runs")]
    status, printed, _ = command("--mode", "evaluate", *flags)
    assert status == 0
    best = json.loads((run / "summary.json").read_text())["best"]["val_auc"]
    assert f"AUROC {best:.4f}" in printed
    status, _, errors = command("--mode", "evaluate", *flags, "--label_name", "in_hospital_mortality")
    assert status == 2
    assert "was trained to predict 'survived'" in errors
