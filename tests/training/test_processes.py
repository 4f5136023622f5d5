"""Two processes of one run on this CPU (gloo): the same weights, the metrics and steps of one process, one failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score

import train_optimized
from benchmarks.kills import differences
from seqsetvae.cohort import Cohort
from seqsetvae.sampler import LengthBucketSampler
from tests.command import argv, call, command, finetune, rows_of, run_of
from tests.training.helpers import load

# What the processes record of themselves, before they run the command that follows.
DRIVER = """
import os, sys
from pathlib import Path
import torch
import train_optimized
from model_optimized import SeqSetVAEFineTuner
from seqsetvae.errors import InputError
from seqsetvae.evaluation.predictions import GatheredPredictions
from seqsetvae.processes import this_process
from seqsetvae.sampler import LengthBucketSampler
from seqsetvae.training import stages

OUT, FAIL_AT, RANK = Path(os.environ["OUT"]), int(os.environ.get("FAIL_AT", 0)), this_process().rank
fit, step, steps = stages.Run.fit, SeqSetVAEFineTuner.training_step, 0

def aurocs():
    import numpy as np
    found = {}
    for n in range(2, 10):
        label = torch.arange(n) % 2
        logit = torch.randn(n, generator=torch.Generator().manual_seed(n)).double()
        sizes = np.arange(1, n + 1)
        sampler = LengthBucketSampler(np.arange(n), sizes, sizes, batch_size=4, max_events=10**6, shuffle=False,
                                      rank=RANK, world_size=2)
        metric = GatheredPredictions("valid")
        for stays in sampler:
            rows = torch.from_numpy(np.where(stays < 0, ~stays, stays))
            own = torch.where(torch.from_numpy(stays < 0), -1, label[rows])
            metric.update(torch.stack([-logit[rows] / 2, logit[rows] / 2], dim=1), own, rows)
        found[n] = (float(metric.table().ranking()["auc"]), label, logit)
    return found

def fit_and_save(self, stage, *arguments, **options):
    fit(self, stage, *arguments, **options)
    content = {"weights": self.module.state_dict(), "rows": [row.metrics for row in self.state.rows], "auroc": aurocs()}
    torch.save(content, OUT / f"stage{stage}-rank{RANK}.pt")

def step_or_fail(self, *arguments):
    global steps
    steps += 1
    if steps == FAIL_AT and RANK == 1:
        raise InputError("the second process has failed")
    return step(self, *arguments)

stages.Run.fit, SeqSetVAEFineTuner.training_step = fit_and_save, step_or_fail
sys.exit(train_optimized.main())
"""
FLAGS: dict[str, Any] = {
    "batch_size": 6,
    "max_epochs": 2,
    "unfreeze_after": 1,
    "head_dropout": 0,
    "save_every_minutes": 0,
}


def torchrun(out: Path, words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """The driver in two processes, started by torchrun."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "driver.py").write_text(DRIVER, encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    root = str(Path(train_optimized.__file__).parent)
    return subprocess.run(
        [*launcher, str(out / "driver.py"), *words],
        env=dict(os.environ) | {"OUT": str(out), "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def _words(pretrained: Path, cohort: Cohort, root: Path) -> list[str]:
    usual = {"mode": "finetune", "pretrained_ckpt": pretrained, "data_dir": cohort.path, "accelerator": "cpu"}
    rates = {"cls_head_lr": 3e-3, "lr": 1e-3, "warmup_steps": 5, "seed": 3}
    return argv(**{**usual, **rates, **FLAGS, "devices": 2, "output_root_dir": root})


@pytest.fixture(scope="module")
def both(pretrained: Path, compiled: Cohort, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder, what was printed) of a run of two processes."""
    out = tmp_path_factory.mktemp("two processes")
    done = torchrun(out, _words(pretrained, compiled, out / "runs"))
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def _saved(out: Path, stage: int, rank: int) -> dict[str, Any]:
    return torch.load(out / f"stage{stage}-rank{rank}.pt", weights_only=True)


def test_weights_are_the_same_in_all_processes_after_each_stage(both: tuple[Path, str]) -> None:
    for stage in (1, 2):
        one, two = (_saved(both[0], stage, rank) for rank in (0, 1))
        assert all(torch.equal(one["weights"][name], two["weights"][name]) for name in one["weights"])
        assert one["rows"] == two["rows"]


def test_a_step_is_that_of_one_process_with_the_batches_of_both(
    both: tuple[Path, str], pretrained: Path, compiled: Cohort, tmp_path: Path
) -> None:
    """Of one process that adds up two batches: the same stays, so the same gradient, whatever the sizes."""
    alone = {**FLAGS, "gradient_accumulation_steps": 2, "max_epochs": 1, "unfreeze_after": None}
    assert finetune(pretrained, compiled.path, tmp_path, **alone)[0] == 0
    run = run_of(tmp_path)
    weights, rows = load(run / "checkpoints" / "last.ckpt")["state_dict"], rows_of(run)
    of_two = _saved(both[0], 1, 0)
    for name, value in weights.items():
        torch.testing.assert_close(of_two["weights"][name], value, rtol=1e-4, atol=1e-6)
    for name in ("train_loss", "val_loss", "val_auc", "val_auprc"):
        assert of_two["rows"][0][name] == pytest.approx(float(rows[0][name]), rel=1e-5)


def test_the_auroc_of_two_processes_is_that_of_scikit_learn_for_awkward_sizes(both: tuple[Path, str]) -> None:
    for rank in (0, 1):
        for n, (auroc, label, logit) in _saved(both[0], 2, rank)["auroc"].items():
            assert auroc == pytest.approx(roc_auc_score(label, logit), abs=1e-6), n


def test_output_and_files_are_those_of_one_process(both: tuple[Path, str]) -> None:
    out, printed = both
    assert printed.count("Run folder: ") == 1
    assert printed.count("Calibration fitted on") == 1
    run = run_of(out / "runs")
    assert [row["epoch"] for row in rows_of(run)] == ["1", "2"]
    assert printed.count("Computed the features of the frozen backbone") == 2  # train and valid, once
    status, said, errors = command("evaluate", ckpt=run, split="valid")
    assert status == 0, errors
    best = max(float(row["val_auc"]) for row in rows_of(run))
    assert f"{best:.4f}" in said


def test_one_failure_ends_all_and_the_run_goes_on_to_the_same_bits(
    both: tuple[Path, str], pretrained: Path, compiled: Cohort, tmp_path: Path
) -> None:
    failed = torchrun(tmp_path, _words(pretrained, compiled, tmp_path / "runs"), FAIL_AT="9")  # inside stage 2
    assert failed.returncode != 0
    before, found, _ = failed.stderr.partition("error: the second process has failed")
    assert found
    assert "Traceback" not in before
    run = run_of(tmp_path / "runs")
    status, _, errors = call(["--resume", str(run)])  # starts both processes by itself
    assert status == 0, errors
    assert "Resumed in epoch 2, after 3 batches" in (run / "train.log").read_text(encoding="utf-8")
    assert not differences(run, run_of(both[0] / "runs"))


def test_modes_without_training_run_in_one_process(compiled: Cohort, tmp_path: Path) -> None:
    status, _, errors = command("embed", data_dir=compiled.path, devices=2, output=tmp_path / "x.npz")
    assert status == 2
    assert "devices: received 2; allowed: 1 with --mode embed, which runs in one process; pass --devices 1" in errors


def test_processes_have_equal_numbers_of_batches_and_similar_work() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    n_sets = rng.geometric(0.02, 1001)
    n_events = n_sets * 5
    work = []
    for rank in range(4):
        sampler = LengthBucketSampler(
            np.arange(1001), n_sets, n_events, batch_size=8, max_events=10**6, shuffle=True, rank=rank, world_size=4
        )
        work.append([int(n_events[stays].sum()) for stays in sampler])
    assert len({len(events) for events in work}) == 1
    totals = np.array([sum(events) for events in work])
    assert totals.max() / totals.mean() < 1.2  # in an epoch of only 32 batches for each process
