"""What other programs leave in the environment, and the signals by which they end a process."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pytorch_lightning import Trainer

from seqsetvae.system.environment import require_usable
from seqsetvae.system.errors import InputError, Terminated
from seqsetvae.system.interrupt import STOPPING, StopRequest, handling
from seqsetvae.system.processes import Process, read_slurm, this_process
from tests.training.helpers import fine_tuner, run_stages

ROOT = Path(__file__).resolve().parents[2]


def test_a_backend_or_a_file_of_settings_never_keeps_matplotlib_from_being_imported(tmp_path):
    """As a notebook starts a command: its backend is named, and not installed here. torchmetrics imports matplotlib."""
    (tmp_path / "matplotlibrc").write_bytes(b"font.family: \xff\n")
    environment = {"MPLBACKEND": "module://not_installed.backend_inline", "MATPLOTLIBRC": str(tmp_path)}
    for name in (".config", "."):
        (tmp_path / name / "matplotlib").mkdir(parents=True)
        shutil.copy(tmp_path / "matplotlibrc", tmp_path / name / "matplotlib")
    home = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"), str(tmp_path))
    code = "import seqsetvae, matplotlib.pyplot; print(matplotlib.rcParams['font.family'])"
    for added, folder in ((environment, ROOT), ({}, tmp_path), (home, ROOT)):
        other = ("MPL", "MATPLOTLIB", "XDG_CONFIG_HOME")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(other)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**inherited, "PYTHONPATH": str(ROOT), **added},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "['sans-serif']\n"


def test_a_backend_that_is_installed_is_kept():
    code = "import seqsetvae, os; print(os.environ['MPLBACKEND'])"
    environment = {**os.environ, "MPLBACKEND": "svg"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, check=True)
    assert done.stdout == b"svg\n"


def test_arguments_of_lightning_in_the_environment_have_no_effect(monkeypatch):
    monkeypatch.setenv("PL_TRAINER_MAX_EPOCHS", "1")
    monkeypatch.setenv("SLURM_PROCID", "")  # Lightning makes a number of it when it is imported
    require_usable()
    assert "SLURM_PROCID" not in os.environ
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert trainer.max_epochs is None or trainer.max_epochs > 1


def test_without_a_folder_for_temporary_files_there_is_one_error(monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/nothing/here"])
    with pytest.raises(InputError, match=r"No usable temporary directory found in .*Set TMPDIR to a folder"):
        require_usable()


@pytest.mark.parametrize(
    "others",
    [
        {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "3"},
        {"TORCHELASTIC_RUN_ID": "7"},
        {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "elsewhere"},
    ],
)
def test_a_cluster_around_one_process_changes_nothing_and_no_file_of_it_is_loaded(
    compiled, tmp_path, monkeypatch, others
):
    """Lightning would ask for 4 devices, requeue the job at SIGUSR1, and load a hpc_ckpt file before stage 2."""
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    for folder in (tmp_path, Path.cwd()):
        assert not list(folder.glob("hpc_ckpt*"))
    handlers = {each: signal.getsignal(each) for each in STOPPING}
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"of a job that was requeued")
    run = run_stages(fine_tuner(compiled), compiled, tmp_path, max_epochs=2, unfreeze_after=1)
    assert run.state.epochs == 2
    assert {each: signal.getsignal(each) for each in STOPPING} == handlers


def _step_of_srun(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_STEP_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def test_a_shell_in_an_allocation_is_one_process_whatever_it_has_room_for(monkeypatch):
    """srun --pty bash in an allocation of two tasks: --devices 2 starts both processes here."""
    _step_of_srun(monkeypatch, NTASKS="2", PROCID="0", LOCALID="0", STEP_ID="4294967290", STEP_NUM_TASKS="1")
    read_slurm(2, 1)
    assert this_process() == Process()


def test_several_tasks_of_a_command_for_one_process_are_said_once(monkeypatch, capsys):
    for rank in ("0", "1"):
        _step_of_srun(monkeypatch, NTASKS="4", PROCID=rank, LOCALID=rank, STEP_ID="0", STEP_NUM_TASKS="4")
        read_slurm(1, 1)
        assert this_process() == Process()
    assert capsys.readouterr().out.count("srun has started 4 tasks, and each is a run of its own") == 1


def test_words_in_the_place_of_numbers_start_no_processes(monkeypatch):
    _step_of_srun(monkeypatch, NTASKS="", PROCID="x", STEP_ID="0")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "two")
    read_slurm(2, 1)
    assert this_process() == Process()


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_that_asks_to_end_is_raised_once_and_waits_for_a_step(number):
    before = signal.signal(number, signal.SIG_DFL)  # the tests may run under nohup
    try:
        with handling(StopRequest()):
            with pytest.raises(Terminated, match=f"stopped by {number.name}"):
                signal.raise_signal(number)
            signal.raise_signal(number)  # while it cleans up
        assert signal.getsignal(number) is signal.SIG_DFL
        stop = StopRequest()
        stop.in_steps = True
        with handling(stop):
            signal.raise_signal(number)
        assert stop.received
    finally:
        signal.signal(number, before)


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handling(StopRequest()):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
