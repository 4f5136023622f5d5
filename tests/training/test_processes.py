"""Two processes of one run on this CPU (gloo): the same weights, the metrics and steps of one process, one failure."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.kills import differences
from model_optimized import SeqSetVAEFineTuner
from seqsetvae.batches.loading import CohortDataModule
from seqsetvae.cohort import Cohort
from tests.command import argv, call, command, finetune, refused, rows_of, run_of, succeeded
from tests.processes import command as one_of
from tests.processes import torchrun
from tests.training.helpers import load
from tests.training.resuming import killed_at

FLAGS: dict[str, Any] = {
    "batch_size": 6,
    "max_epochs": 2,
    "unfreeze_after": 1,
    "head_dropout": 0,
    "save_every_minutes": 0,
}
# Runs of the two processes: one with a loss that is NaN, two that end well, and one that one process has begun.
BROKEN, WHOLE, PRETRAINING, RESUMED = 0, 1, 2, 3
STEPS = 5  # of each of the two epochs, which are a stage each
SCORING: dict[str, dict[str, Any]] = {  # 20 stays in 3 batches, so that one process has one more
    "test.csv": {"mode": "predict", "ckpt": "{run}", "split": "test", "batch_size": 8},
    "every.csv": {"mode": "predict", "ckpt": "{run}", "split": "test", "every_set": "true", "batch_size": 8},
    "evaluation": {"mode": "evaluate", "ckpt": "{run}", "split": "test", "landmarks": 12, "batch_size": 64},
    "states.npz": {"mode": "embed", "split": "test", "batch_size": 8},
}


def _words(pretrained: Path, data: Path, root: Path) -> list[str]:
    usual = {"mode": "finetune", "pretrained_ckpt": pretrained, "data_dir": data, "accelerator": "cpu"}
    rates = {"cls_head_lr": 3e-3, "lr": 1e-3, "warmup_steps": 5, "seed": 3}
    return argv(**{**usual, **rates, **FLAGS, "devices": 2, "output_root_dir": root})


def _scoring(name: str, out: Path, pretrained: Path, compiled: Cohort, single: Path) -> dict[str, Any]:
    """Flags of one of SCORING, which writes to the folder `out`; "single.csv" predicts the only stay of `single`."""
    common = {"output": out / name, "output_root_dir": out / "cohorts", "accelerator": "cpu"}
    if name == "single.csv":
        return {"mode": "predict", "ckpt": "{run}", "data_dir": single, "split": "test", **common}
    flags = {**SCORING[name], **common}
    if flags["mode"] == "embed":
        flags |= {"pretrained_ckpt": pretrained, "data_dir": compiled.path}
    return flags | ({"baselines": "none"} if flags["mode"] == "evaluate" else {})


def _killed(pretrained: Path, cohort: Cohort, root: Path) -> Path:
    """A run of one process that was killed in stage 2, after five of ten batches."""
    with killed_at(SeqSetVAEFineTuner, "training_step", 2 * STEPS + 6):
        finetune(pretrained, cohort.path, root, **FLAGS)
    return shutil.copytree(run_of(root), root / "copy")  # this process has not ended, so it locks the other one


@pytest.fixture(scope="module")
def single(old_layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one stay in the test split: fewer than there are processes."""
    copy = tmp_path_factory.mktemp("single") / "data"
    shutil.copytree(old_layout.parent, copy)
    for file in sorted((copy / "patient_ehr" / "test").iterdir())[1:]:
        file.unlink()
    return copy / "patient_ehr"


@pytest.fixture(scope="module")
def both(
    pretrained: Path, compiled: Cohort, single: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, str]:
    """(folder, what was printed, errors) of two processes: runs, what is computed with one of them, and a last run.

    In the last one the second process fails in stage 2, after three steps.
    """
    out = tmp_path_factory.mktemp("two processes")
    broken, whole = (_words(pretrained, compiled.path, out / name) for name in ("broken", "runs"))
    scoring = [_scoring(name, out, pretrained, compiled, single) for name in (*SCORING, "single.csv")]
    scored = [one_of(argv(**flags, devices=2)) for flags in scoring]
    resumed = argv(resume=_killed(pretrained, compiled, out / "killed"), devices=2, override="devices")
    small = {"mode": "pretrain", "data_dir": compiled.path, "preset": "small", "batch_size": 6, "max_epochs": 1}
    pretraining = argv(**small, accelerator="cpu", output_root_dir=out / "backbone", devices=2)
    runs = one_of(broken, status=1, nan_at=3), one_of(whole), one_of(pretraining), one_of(resumed)
    failing = one_of(_words(pretrained, compiled.path, out / "failing"), fail_at=STEPS + 4)
    done = torchrun(out, *runs, *scored, failing)
    assert done.returncode != 0
    assert (out / "failed_at").exists(), done.stderr
    assert time.time() - float((out / "failed_at").read_text(encoding="utf-8")) < 60
    return out, done.stdout, done.stderr


def _saved(out: Path, stage: int, rank: int, run: int = WHOLE) -> dict[str, Any]:
    return torch.load(out / f"command{run}-stage{stage}-rank{rank}.pt", weights_only=True)


def test_weights_are_the_same_in_all_processes_after_each_stage(both):
    for run, stage in ((WHOLE, 1), (WHOLE, 2), (PRETRAINING, 1), (RESUMED, 2)):
        one, two = (_saved(both[0], stage, rank, run) for rank in (0, 1))
        assert all(torch.equal(one["weights"][name], two["weights"][name]) for name in one["weights"])
        assert one["rows"] == two["rows"]


def test_a_step_is_that_of_one_process_with_the_batches_of_both(both, pretrained, compiled, tmp_path):
    """Of one process that adds up two batches: the same stays, so the same gradient, however they are dealt out."""
    alone = {**FLAGS, "gradient_accumulation_steps": 2, "max_epochs": 1, "unfreeze_after": None}
    assert finetune(pretrained, compiled.path, tmp_path, **alone)[0] == 0
    run = run_of(tmp_path)
    weights, rows = load(run / "checkpoints" / "last.ckpt")["state_dict"], rows_of(run)
    of_two = _saved(both[0], 1, 0)
    for name, value in weights.items():
        torch.testing.assert_close(of_two["weights"][name], value, rtol=1e-4, atol=1e-6)
    for name in ("train_loss", "val_loss", "val_auc", "val_auprc"):
        assert of_two["rows"][0][name] == pytest.approx(float(rows[0][name]), rel=1e-5)
    _same_features(both[0], tmp_path, compiled)


def _same_features(two: Path, one: Path, cohort: Cohort) -> None:
    """Cached features that two processes have computed, half of the batches each, are those of one process."""
    ours, theirs = (
        {file.parent.name: file.read_bytes() for file in root.glob("features/*/pooled.npy")}
        for root in (two / "broken", one)  # the first run of the two processes has computed them
    )
    assert ours == theirs
    assert len(ours) == 2
    computed = [_saved(two, 1, rank)["computed"] for rank in (0, 1)]
    assert sum(map(sum, computed)) == sum((cohort.split(name).label >= 0).sum() for name in ("train", "valid"))
    assert abs(len(computed[0]) - len(computed[1])) <= 2  # at most one batch of each split


def test_the_auroc_of_two_processes_is_that_of_scikit_learn_for_awkward_sizes(both):
    for rank in (0, 1):
        for n, (auroc, label, logit) in _saved(both[0], 2, rank)["auroc"].items():
            assert auroc == pytest.approx(roc_auc_score(label, logit), abs=1e-6), n


def test_output_and_files_are_those_of_one_process(both):
    out, printed, _ = both
    assert printed.count("Run folder: ") == 5  # one of each run
    assert printed.count("Calibration fitted on") == 2 + 4  # by two runs, and by each command that applies it
    run = run_of(out / "runs")
    assert [row["epoch"] for row in rows_of(run)] == ["1", "2"]
    assert printed.count("Computed the features of the frozen backbone") == 6  # train and valid, once in each run
    said = succeeded(command("evaluate", ckpt=run, split="valid", output=out / "valid"))
    best = max(float(row["val_auc"]) for row in rows_of(run))
    assert f"{best:.4f}" in said


@pytest.mark.parametrize("name", [*SCORING, "single.csv"])
def test_predictions_evaluations_and_states_are_those_of_one_process(
    both, name, pretrained, compiled, single, tmp_path
):
    out, printed, _ = both
    flags = _scoring(name, tmp_path, pretrained, compiled, single)
    if "ckpt" in flags:
        flags["ckpt"] = run_of(out / "runs")
    succeeded(call(argv(**flags)))
    files = [path for path in (tmp_path / name, *(tmp_path / name).glob("*")) if path.is_file()]
    assert len(files) == (2 if name == "evaluation" else 1)
    for file in files:
        theirs = out / file.relative_to(tmp_path)
        assert file.read_bytes() == theirs.read_bytes(), file.name
        assert printed.count(f"Wrote {theirs}") == 1


def test_a_loss_that_is_nan_in_one_process_ends_all_and_names_its_stays(both):
    out, _, errors = both
    content = json.loads((run_of(out / "broken") / "bad_batch.json").read_text(encoding="utf-8"))
    files = [out / f"command{BROKEN}-stays-rank{rank}.json" for rank in (0, 1)]
    steps = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    assert (content["batch"], content["stays"]) == (2, steps[0][2] + steps[1][2])
    assert errors.count("that of batch 2 of the epoch is NaN or infinite") == 2  # by each process, at the same time


def test_one_failure_ends_all_and_the_run_resumes_in_one_process(both, compiled, tmp_path, monkeypatch):
    """It trains on the stays that are left of the epoch, and says that the result is another one."""
    before, found, _ = both[2].partition("error: the second process has failed")
    assert found
    assert "Traceback" not in before
    run = shutil.copytree(run_of(both[0] / "failing"), tmp_path / "copy")
    seen, step = list[int](), SeqSetVAEFineTuner.training_step

    def recorded(self: Any, batch: Any, index: int) -> torch.Tensor:
        seen.extend(batch.stay_id.tolist())
        return step(self, batch, index)

    monkeypatch.setattr(SeqSetVAEFineTuner, "training_step", recorded)
    said = succeeded(call(["--resume", str(run), "--devices", "1", "--override", "devices"]))
    assert "Processes: 2 before, 1 from now on, so the result is another one" in said
    assert [row["epoch"] for row in rows_of(run)] == ["1", "2"]
    steps = slice(STEPS, STEPS + 3)
    done = {stay for rank in (0, 1) for batch in _saved(both[0], 2, rank)["stays"][steps] for stay in batch}
    train = compiled.split("train")
    assert sorted(seen) == sorted(set(train.stay_id[train.label >= 0].tolist()) - done)


@pytest.mark.slow  # it starts two processes more
def test_after_a_failure_both_processes_resume_to_the_same_bits(both):
    run = run_of(both[0] / "failing")
    succeeded(call(["--resume", str(run)]))  # starts both processes by itself
    assert "Resumed in epoch 2, after 3 batches" in (run / "train.log").read_text(encoding="utf-8")
    assert not differences(run, run_of(both[0] / "runs"))


def test_two_processes_go_on_with_a_run_of_one(both, compiled):
    """With two batches a step, after four batches: one of the five that were finished is trained on again."""
    assert "Processes: 1 before, 2 from now on, so the result is another one" in both[1]
    data = CohortDataModule(compiled, batch_size=FLAGS["batch_size"], max_events=10**6, seed=3)
    batches = [batch.stay_id.tolist() for batch in data.loader("train", shuffle=True, stage=2)]
    steps = zip(*(_saved(both[0], 2, rank, RESUMED)["stays"] for rank in (0, 1)), strict=True)
    pairs = zip(batches[4::2], batches[5::2], strict=True)
    assert [sorted(one + two) for one, two in steps] == [sorted(one + two) for one, two in pairs]


def test_a_mode_for_one_process_says_so(compiled):
    errors = refused(command("crossvalidate", data_dir=compiled.path, from_random_weights="true", devices=2))
    assert "devices: received 2; allowed: 1 with --mode crossvalidate, which runs in one process; pass" in errors
