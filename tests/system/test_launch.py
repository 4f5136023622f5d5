"""Starting the processes of a run, and how they end: with the first failure, soon, and with its status."""

import os
import signal
import socket
import time
from datetime import timedelta
from pathlib import Path

import pytest

from seqsetvae.system import processes
from seqsetvae.system.errors import InputError
from seqsetvae.system.interrupt import STOPPING
from seqsetvae.system.processes import check_processes, init_distributed, launch, this_process

SCRIPT = """
import os, sys, time
if os.environ["RANK"] == "1":
    {second}
time.sleep(120)
"""


def _launch(tmp_path: Path, second: str) -> tuple[int, float]:
    """(exit status, seconds) of two processes, the second of which does this, and the first nothing for 2 minutes."""
    script, start = tmp_path / "script.py", time.monotonic()
    script.write_text(SCRIPT.format(second=second), encoding="utf-8")
    return launch([str(script)], 2), time.monotonic() - start


def test_a_process_that_is_killed_ends_all_within_seconds(tmp_path, capsys):
    status, seconds = _launch(tmp_path, "os.kill(os.getpid(), 9)")
    assert status == 137
    assert seconds < 60
    assert "error: process 1 of this run was killed by SIGKILL, and the others were ended" in capsys.readouterr().err


def test_the_status_is_that_of_the_process_that_failed_first(tmp_path):
    status, seconds = _launch(tmp_path, "sys.exit(2)")
    assert status == 2
    assert seconds < 60


def test_no_process_asks_for_the_name_of_this_computer(tmp_path, monkeypatch):
    """In many containers it does not resolve, and each question takes seconds."""

    def asked(_: str = "") -> str:
        raise AssertionError("asked for the name")

    monkeypatch.setattr(socket, "getfqdn", asked)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys; from pathlib import Path; names = 'MASTER_ADDR', 'GLOO_SOCKET_IFNAME', 'RANK'\n"
        f"Path({str(tmp_path)!r}, os.environ['RANK']).write_text(' '.join(map(os.environ.get, names)))",
        encoding="utf-8",
    )
    assert launch([str(script)], 2) == 0
    assert socket.getfqdn is asked
    loopback = next(name for _, name in socket.if_nameindex() if name in ("lo", "lo0"))
    assert [(tmp_path / rank).read_text() for rank in "01"] == [f"localhost {loopback} {rank}" for rank in "01"]


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_to_the_launcher_reaches_the_processes_and_asks_to_try_again(tmp_path, number):
    before = signal.getsignal(number)
    first = f"os.kill(os.getppid(), {int(number)})"
    try:
        assert _launch(tmp_path, first)[0] == 75
    finally:
        signal.signal(number, before)


def _second_of_two(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """This process is one that torchrun has started, with another on the same computer."""
    values = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


def test_a_port_in_use_is_one_error(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        _second_of_two(monkeypatch, port)
        with pytest.raises(InputError, match=rf"127.0.0.1:{port}: the 2 processes .* MASTER_PORT to a free one"):
            init_distributed(use_gpu=False)


def test_a_process_that_never_comes_is_one_error(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    _second_of_two(monkeypatch, port)
    monkeypatch.setattr(processes, "LONGEST_START", timedelta(seconds=1))
    with pytest.raises(InputError, match="if processes are missing, look for their errors"):
        init_distributed(use_gpu=False)


@pytest.mark.parametrize(("devices", "num_nodes"), [(1, 1), (3, 1), (2, 2)])
def test_other_numbers_than_those_that_were_started_are_an_error(monkeypatch, devices, num_nodes):
    _second_of_two(monkeypatch, 0)
    check_processes(2, 1)
    with pytest.raises(InputError, match=r"2 processes were started, 2 on this node: pass --devices 2 --num_nodes 1"):
        check_processes(devices, num_nodes)


def test_several_nodes_need_torchrun_or_srun():
    with pytest.raises(InputError, match=r"num_nodes: received 2; the same command must be started on each node"):
        check_processes(1, 2)


def test_a_task_of_srun_is_one_of_the_processes(monkeypatch):
    values = {"PROCID": 5, "LOCALID": 1, "NTASKS": 8, "STEP_ID": 0, "STEP_NODELIST": "n[07-08]", "JOB_ID": 123456}
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    for name in (*processes.ENVIRONMENT, "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that they are restored
        monkeypatch.delenv(name)
    processes.read_slurm(4, 2)
    assert this_process() == processes.Process(rank=5, world_size=8, local_rank=1, local_world_size=4)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("n07", "18456")
