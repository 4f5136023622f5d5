"""`--resume RUN` as users meet it: signals, what may change, what is refused, and real processes that are killed."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import train_optimized
from benchmarks.kills import Call, differences, killed_run
from model_optimized import SeqSetVAEFineTuner
from seqsetvae import report
from seqsetvae.cohort import Cohort
from seqsetvae.report import page
from seqsetvae.runs import finetune as finetune_runs
from seqsetvae.settings.old_names import WITHOUT_EFFECT
from seqsetvae.training import start
from seqsetvae.training.resume import check_same_inputs
from tests.command import argv, call, finetune, real_reports, refused, rows_of, run_of
from tests.training.helpers import load
from tests.training.resuming import EVERY_STEP, FINETUNING, STEPS, killed_at, refusal, resume

FLAGS = {"batch_size": 8, "max_epochs": 3, "unfreeze_after": 1}


@pytest.fixture(scope="module")
def killed_once(pretrained: Path, compiled: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("killed")
    with killed_at(SeqSetVAEFineTuner, "training_step", 2 * STEPS + 3):
        finetune(pretrained, compiled.path, root, **FLAGS)
    return run_of(root)


@pytest.fixture
def killed(killed_once: Path, tmp_path: Path) -> Path:
    """A run that was killed in its third epoch."""
    return Path(shutil.copytree(killed_once, tmp_path / killed_once.name))


@pytest.fixture(scope="module")
def ended_once(killed_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(killed_once, tmp_path_factory.mktemp("ended") / killed_once.name))
    resume(run)
    return run


@pytest.fixture
def ended(ended_once: Path, tmp_path: Path) -> Path:
    """That run, which was resumed to its end."""
    return Path(shutil.copytree(ended_once, tmp_path / ended_once.name))


def test_another_value_is_refused_and_says_how_to_change_it(killed):
    errors = refusal(killed, "--lr", "1e-5", "--seed", "4", "--max_epochs", "3")
    assert "2 problems" in errors
    assert f"lr: received 1e-05; the run in {killed} has 0.001; leave out --lr, or change it on purpose with " in errors
    assert "--override lr" in errors
    assert "seed: received 4" in errors
    assert "cannot change within a run" in errors


def test_a_setting_that_is_overridden_has_its_new_value_from_there_on(killed):
    before = rows_of(killed)
    resume(killed, "--lr", "5e-4", "--max_epochs", "4", "--override", "lr", "max_epochs")
    rows = rows_of(killed)
    assert rows[: len(before)] == before
    assert [row["lr_backbone"] for row in rows] == ["0.0", "0.001", "0.0005", "0.0005"]
    settings = json.loads((killed / "config.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["lr"], settings["max_epochs"], settings["cls_head_lr"]) == (5e-4, 4, 3e-3)


@pytest.mark.parametrize(("name", "value"), [("max_epochs", 4), ("lr", 0.5), ("seed", 9)])
def test_a_setting_that_was_changed_by_hand_is_refused(killed, name, value):
    config = json.loads((killed / "config.json").read_text(encoding="utf-8"))
    config["settings"][name] = value
    (killed / "config.json").write_text(json.dumps(config), encoding="utf-8")
    errors = refusal(killed)
    assert f"the settings in {killed / 'config.json'} are not those that the run wrote" in errors
    assert "--override" in errors


def test_a_finished_run_has_nothing_to_do_unless_it_is_made_longer(ended):
    written = {file: file.stat().st_mtime_ns for file in ended.rglob("*")}
    said = resume(ended)
    assert said.startswith(f"Nothing to do: the run in {ended} is finished")
    assert {file: file.stat().st_mtime_ns for file in ended.rglob("*")} == written
    resume(ended, "--max_epochs", "4", "--override", "max_epochs")
    assert [row["epoch"] for row in rows_of(ended)] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_a_run_of_an_earlier_version_goes_on_unless_a_setting_that_is_gone_had_an_effect(killed, name):
    config = json.loads((killed / "config.json").read_text(encoding="utf-8"))
    del config["settings_checksum"]
    for value in ("another", WITHOUT_EFFECT[name]):
        config["settings"][name] = value
        (killed / "config.json").write_text(json.dumps(config), encoding="utf-8")
        if value == "another":
            errors = refusal(killed)
            assert f"{killed / 'config.json'}: records {name} = 'another', which is gone" in errors
            assert "the last version with it is 0.1.0" in errors
    resume(killed)
    assert [row["epoch"] for row in rows_of(killed)] == ["1", "2", "3"]
    (killed / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert resume(killed).startswith("Nothing to do")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--override", "lr"], "override: received 'lr', but --lr gives it no other value"),
        (["--mode", "pretrain"], "mode: received 'pretrain'"),
        (["--ckpt", "x"], "--mode finetune does not use it"),
        (["--lrr", "1"], "did you mean --lr?"),
        (["--lr", "fast"], "lr: received 'fast'; allowed: a number above 0"),
    ],
)
def test_a_wrong_flag_is_refused(killed, words, expected):
    assert expected in refusal(killed, *words)


def test_what_is_no_run_is_refused(killed, tmp_path, finished):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "nothing", tmp_path / "empty", killed / "config.json"):
        assert "allowed: an existing run folder" in refusal(path)
    assert "it needs --resume RUN" in refused(call(["--mode", "finetune", "--override", "lr"]))


def test_data_or_a_checkpoint_that_changed_are_refused(killed):
    config = json.loads((killed / "config.json").read_text(encoding="utf-8"))
    for change, expected in (
        ({"cohort": {"content": "other"}}, "the data in"),
        ({"pretrained_checksum": "other"}, "the pretrained checkpoint has changed"),
    ):
        (killed / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
        assert expected in refusal(killed)


def test_a_run_that_another_process_writes_is_refused(killed):
    code = f"import fcntl, time; file = open({str(killed / '.running')!r}, 'ab'); fcntl.lockf(file, fcntl.LOCK_EX)"
    code += "; print('locked', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        try:
            assert "another process writes to this run" in refusal(killed)
        finally:
            other.kill()


def _signal_at(monkeypatch: pytest.MonkeyPatch, name: str, number: int, which: signal.Signals) -> list[int]:
    """The process gets a signal in this call of a step, counted from 1; the list has an entry for each call so far."""
    step, calls = getattr(SeqSetVAEFineTuner, name), list[int]()

    def signalled(self: SeqSetVAEFineTuner, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == number:
            signal.raise_signal(which)
        return step(self, *arguments)

    monkeypatch.setattr(SeqSetVAEFineTuner, name, signalled)
    return calls


def test_ctrl_c_names_the_command_that_goes_on(pretrained, compiled, tmp_path, monkeypatch):
    _signal_at(monkeypatch, "training_step", 12, signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore the signal
    try:
        status, _, errors = finetune(pretrained, compiled.path, tmp_path, **FLAGS)
    finally:
        signal.signal(signal.SIGINT, before)
    assert status == 130
    run = run_of(tmp_path)
    assert errors.splitlines()[-1] == f"interrupted; to resume: python train_optimized.py --resume {run}"
    resume(run)


def test_sigterm_saves_the_step_and_exits_with_its_own_status(pretrained, compiled, tmp_path, monkeypatch):
    """The gradient group is finished first; nothing is lost."""
    before = signal.getsignal(signal.SIGTERM)
    # In the fourth batch of the second epoch, the first of its group.
    calls = _signal_at(monkeypatch, "training_step", 12, signal.SIGTERM)
    status, _, errors = finetune(pretrained, compiled.path, tmp_path, **FLAGS, gradient_accumulation_steps=3)
    assert status == train_optimized.STOPPED == 75
    assert signal.getsignal(signal.SIGTERM) is before
    run = run_of(tmp_path)
    assert errors.splitlines()[-1] == f"stopped by SIGTERM; to resume: python train_optimized.py --resume {run}"
    assert load(run / "checkpoints" / "last.ckpt")["callbacks"]["LastCheckpoint"]["batches"] == 6
    assert len(calls) == STEPS + 6
    assert "Resumed in epoch 2, after 6 batches" in resume(run)


def test_sigterm_in_a_validation_ends_at_once(pretrained, compiled, tmp_path, monkeypatch):
    """A validation of hours has no step that could be saved; the state before it is."""
    calls = _signal_at(monkeypatch, "validation_step", 5, signal.SIGTERM)  # of 3 in each epoch
    status, _, errors = finetune(pretrained, compiled.path, tmp_path, **FLAGS)
    assert status == train_optimized.STOPPED
    assert len(calls) == 5
    assert "stopped by SIGTERM; to resume: python train_optimized.py --resume" in errors
    resume(run_of(tmp_path))
    assert [row["epoch"] for row in rows_of(run_of(tmp_path))] == ["1", "2", "3"]


def test_what_a_run_owes_at_its_end_is_made_when_it_is_resumed(killed, monkeypatch, tmp_path):
    """It is killed in its calibration, its summary and its report, and it gets SIGTERM in both of these."""
    words = ["--resume", str(killed)]
    moments = ((finetune_runs, "calibrate"), (start, "summarize"), (report, "write_report"), (page, "write_text"))
    for owner, name in moments:
        with real_reports(drawn=False), killed_at(owner, name, 1):
            call(words)
        with real_reports(drawn=False), monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda *_: signal.raise_signal(signal.SIGTERM))
            status, _, errors = call(words)
        assert status == 75, errors
        assert errors.splitlines()[-1] == f"stopped by SIGTERM; to resume: python train_optimized.py --resume {killed}"
    assert not (killed / "report.html").exists()
    resume(killed)
    for file in ("calibration.json", "summary.json", "summary.txt", "run_state.json", "report.html"):
        assert (killed / file).is_file()
    for file in (".running", "checkpoints/previous.ckpt"):
        assert not (killed / file).exists()
    assert resume(killed).startswith("Nothing to do")


def test_a_finished_run_that_is_made_longer_is_not_finished_until_it_is(ended):
    with killed_at(SeqSetVAEFineTuner, "training_step", 3):
        call(["--resume", str(ended), "--max_epochs", "4", "--override", "max_epochs"])
    resume(ended)
    assert [row["epoch"] for row in rows_of(ended)] == ["1", "2", "3", "4"]


def test_a_finished_run_whose_data_changed_is_still_finished(ended):
    config = json.loads((ended / "config.json").read_text(encoding="utf-8"))
    changed = config | {"cohort": config["cohort"] | {"content": "other"}}
    (ended / "config.json").write_text(json.dumps(changed), encoding="utf-8")
    assert "the data in" in refusal(ended, "--max_epochs", "4", "--override", "max_epochs")
    assert resume(ended).startswith("Nothing to do")


def test_another_number_of_threads_is_said(tmp_path, capsys):
    """Sums are then added in another order."""
    run = {"cohort": {"content": "c"}, "pretrained_checksum": None, "versions": {}, "threads": 4}
    check_same_inputs(run, run, tmp_path)
    check_same_inputs({name: run[name] for name in run if name != "threads"}, run, tmp_path)
    assert capsys.readouterr().out == ""
    check_same_inputs(run, run | {"threads": 1}, tmp_path)
    assert "Threads: 4 before, 1 from now on, so the last digits may differ" in capsys.readouterr().out


@pytest.mark.slow  # it starts three processes; tests/training/test_resume.py kills runs in this one
def test_a_process_that_is_killed_ends_like_one_that_was_not(pretrained, compiled, tmp_path):
    """Once from outside, and once more when half of a checkpoint is written."""
    flags = {"mode": "finetune", "pretrained_ckpt": pretrained, "data_dir": compiled.path, "accelerator": "cpu"}
    words = argv(**{**flags, **FINETUNING, **EVERY_STEP})
    assert call([*words, "--output_root_dir", str(tmp_path / "whole")])[0] == 0
    whole = run_of(tmp_path / "whole")
    (tmp_path / "killed").mkdir()
    run, hit = killed_run(words, "finetune", tmp_path / "killed", [0.6, Call("checkpoint", 3)])
    assert run is not None
    assert "finished" not in hit
    assert not differences(run, whole)
