"""Several processes of one run, one for each device: who this process is, how they start, and how they wait.

They are those of torch.distributed: `--devices N` starts them on this computer by torchrun's own launcher, and torchrun
or srun start them on several. Training over them is PyTorch's DistributedDataParallel, through Lightning. Nothing here
imports torch before it is needed.
"""

from __future__ import annotations

import io
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from itertools import zip_longest
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any, TypeVar

from seqsetvae.system.console import warn
from seqsetvae.system.errors import InputError
from seqsetvae.system.interrupt import STOPPING

if TYPE_CHECKING:  # --help must not wait for it
    import torch

Value = TypeVar("Value")
# Other processes wait while one computes features or compiles data. It is no limit for failures: the launcher ends all
# processes as soon as one has failed.
LONGEST_WAIT = timedelta(days=7)
LONGEST_START = timedelta(minutes=10)  # until all processes are there; jobs of several nodes start within seconds

TASKS = "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"  # of this call of srun; of the allocation
ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # of torchrun
SECONDS_OF_THE_FIRST = 3.0  # in which the first process ends with an error of all, and the launcher ends the others


@dataclass(frozen=True)
class Process:
    """This process among those of the run."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # on this computer
    local_world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0


def this_process() -> Process:
    """This process as torchrun, or srun, describes it in the environment; the only one, if neither started it."""
    is_started = all(os.environ.get(name, "").isdecimal() for name in ENVIRONMENT)
    return Process(*(int(os.environ[name]) for name in ENVIRONMENT)) if is_started else Process()


def read_slurm(devices: int, num_nodes: int) -> None:
    """Give the tasks of `srun` the environment that torchrun's processes have; no effect elsewhere.

    Only where the number of tasks is that of the processes that the settings ask for: in an interactive allocation a
    command runs alone, whatever the allocation has room for.
    """
    slurm, wanted = os.environ, devices * num_nodes
    if "RANK" in slurm or not {"SLURM_PROCID", "SLURM_STEP_ID"} <= slurm.keys():
        return
    tasks = next((int(slurm[name]) for name in TASKS if slurm.get(name, "").isdecimal()), 1)
    if wanted == 1 and slurm.get(TASKS[0], "1") != "1" and slurm["SLURM_PROCID"] == "0":
        warn(
            f"srun has started {tasks} tasks, and each is a run of its own. For one run of all pass --devices, and "
            "--num_nodes on several nodes; for one process pass srun --ntasks 1."
        )
    if wanted == 1 or tasks != wanted:
        return
    from lightning_fabric.plugins.environments import SLURMEnvironment

    nodes = slurm.get("SLURM_STEP_NODELIST") or slurm.get("SLURM_NODELIST", "127.0.0.1")
    slurm["RANK"], slurm["WORLD_SIZE"] = slurm["SLURM_PROCID"], str(tasks)
    slurm["LOCAL_RANK"], slurm["LOCAL_WORLD_SIZE"] = slurm["SLURM_LOCALID"], str(devices)
    slurm["GROUP_RANK"] = slurm.get("SLURM_NODEID", "0")
    slurm.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
    slurm.setdefault("MASTER_PORT", str(15_000 + int(slurm.get("SLURM_JOB_ID", "0")[-4:])))


def check_processes(devices: int, num_nodes: int) -> None:
    """Compare the settings with what torchrun or srun has started.

    Raises:
        InputError: other numbers, or several computers without either of them.
    """
    process = this_process()
    if process.world_size == 1 and num_nodes > 1:
        raise InputError(
            f"num_nodes: received {num_nodes}; the same command must be started on each node by torchrun or srun, see "
            "docs/clusters.md"
        )
    if process.world_size > 1 and (process.local_world_size != devices or process.world_size != devices * num_nodes):
        local = process.local_world_size
        raise InputError(
            f"devices, num_nodes: received {devices} and {num_nodes}; {process.world_size} processes were started, "
            f"{local} on this node: pass --devices {local} --num_nodes {process.world_size // local}, or, if "
            f"another program has left them in the environment, unset {' '.join(ENVIRONMENT)}"
        )


def launch(words: Sequence[str], devices: int) -> int:
    """Run this command in so many processes on this computer; the first failure ends all of them.

    Returns:
        The exit status: that of the process that failed first, or 0.
    """
    import logging
    import signal

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the process has printed its error
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    loopback = {"lo", "lo0"} & {name for _, name in socket.if_nameindex()}
    if loopback:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback.pop())
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=str(os.getpid()),
        max_restarts=0,
        monitor_interval=0.1,
        local_addr="localhost",
        signals_to_handle=",".join(signal.Signals(number).name for number in (*STOPPING, signal.SIGINT)),
    )
    try:
        with _without_name_of_this_computer():
            elastic_launch(config, sys.executable)(*words)
    except ChildFailedError as error:
        failure = error.get_first_failure()[1]
        if failure.exitcode >= 0:
            return failure.exitcode
        name = signal.Signals(-failure.exitcode).name
        print(
            f"error: process {failure.local_rank} of this run was killed by {name}, and the others were ended. SIGKILL "
            "often means that memory ran out: lower --batch_size, --num_workers or --devices.",
            file=sys.stderr,
        )
        return 128 - failure.exitcode  # as shells have it
    except SignalException as stopped:
        return 130 if stopped.sigval == signal.SIGINT else 75
    return 0


@contextmanager
def _without_name_of_this_computer() -> Iterator[None]:
    """Let torchrun's launcher take the name localhost: in many containers looking up the real one takes seconds."""
    original = socket.getfqdn
    socket.getfqdn = lambda name="": "localhost"
    try:
        yield
    finally:
        socket.getfqdn = original


@contextmanager
def other_output() -> Iterator[None]:
    """Silence all processes but the first; errors of the others appear late, as the first often has the same one."""
    if this_process().is_first:
        yield
        return
    errors = io.StringIO()
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing), redirect_stderr(errors):
        yield
    if errors.getvalue():
        sleep(SECONDS_OF_THE_FIRST)
        print(errors.getvalue(), end="", file=sys.stderr, flush=True)


def init_distributed(use_gpu: bool) -> None:
    """Create the process group of torch.distributed; no effect in a run of one process.

    Raises:
        InputError: another program uses the port, or not all processes are there after `LONGEST_START`.
    """
    process = this_process()
    if process.world_size == 1:
        return
    import torch
    from torch import distributed

    if use_gpu:
        torch.cuda.set_device(process.local_rank)
    if distributed.is_initialized():
        return
    try:
        store, rank, world_size = next(distributed.rendezvous("env://", timeout=LONGEST_START))
        backend = "cpu:gloo,cuda:nccl" if use_gpu else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=LONGEST_WAIT)
    except RuntimeError as error:  # also gloo's, which has no type of its own
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise InputError(
            f"{address}: the {process.world_size} processes of this run cannot meet there "
            f"({str(error).splitlines()[0]}). If another program uses the port, set MASTER_PORT to a free one; if "
            "processes are missing, look for their errors, and whether all nodes reach this address."
        ) from None


def lost_another(error: RuntimeError) -> bool:
    """Whether an error only says that another process of this run has ended."""
    if this_process().world_size == 1:
        return False
    from torch import distributed

    is_closed = any(words in str(error) for words in ("closed by peer", "reset by peer", "Broken pipe"))
    return is_closed or isinstance(error, distributed.DistError)


def finish_distributed() -> None:
    """Destroy the process group: the first process continues alone, the others exit with status 0."""
    process = this_process()
    if process.world_size == 1:
        return
    from torch import distributed

    barrier()
    distributed.destroy_process_group()
    if not process.is_first:
        sys.exit(0)
    for name in ENVIRONMENT:
        del os.environ[name]


@contextmanager
def first_process_first() -> Iterator[None]:
    """Run the block in the first process, then in the others, which find what it has cached."""
    is_first = this_process().is_first
    if not is_first:
        barrier()
    yield
    if is_first:
        barrier()


def broadcast_from_first(make: Callable[[], Value]) -> Value:
    """What `make` returns in the first process, which alone calls it."""
    process = this_process()
    if process.world_size == 1:
        return make()
    from torch import distributed

    values: list[Any] = [make() if process.is_first else None]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def all_gather(value: Value) -> list[Value]:
    """The values of all processes, by rank, in all of them."""
    process = this_process()
    if process.world_size == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * process.world_size
    distributed.all_gather_object(values, value)
    return values


def own_share() -> dict[str, Any]:
    """Arguments of a loader for the share of this process in the batches of one process: every n-th of them."""
    process = this_process()
    return {"rank": process.rank, "world_size": process.world_size, "equal_steps": False}


def all_gather_rows(parts: Sequence[tuple[torch.Tensor, ...]]) -> list[torch.Tensor]:
    """Join the rows that the processes computed from their shares, in the order of one process; all get all of them.

    `parts` has the columns of each batch of this process.
    """
    import torch

    if this_process().world_size > 1:
        every = all_gather([tuple(column.cpu() for column in part) for part in parts])
        parts = [part for turn in zip_longest(*every) for part in turn if part is not None]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def gather_to_first(own: Iterable[Value], count: int) -> Iterator[Value]:
    """Yield the values of all processes in the first one, in the order of a single process; in the others nothing.

    They are sent one by one, so no process holds more than one of each. `count` is how many `own` has.
    """
    process = this_process()
    if process.world_size == 1:
        yield from own
        return
    from torch import distributed

    values = iter(own)
    for _ in range(broadcast_from_first(lambda: count)):  # the first process has the most
        gathered: list[Any] | None = [None] * process.world_size if process.is_first else None
        distributed.gather_object(next(values, None), gathered)
        yield from (value for value in gathered or () if value is not None)


def barrier() -> None:
    """Wait for all processes."""
    any_process(False)


def any_process(*flags: bool) -> list[bool]:
    """Whether each flag is set in any process. The host waits for the other hosts, but for no device."""
    if this_process().world_size == 1:
        return list(flags)
    import torch
    from torch import distributed

    is_set = torch.tensor(flags, dtype=torch.int32)
    distributed.all_reduce(is_set, distributed.ReduceOp.MAX)
    return is_set.bool().tolist()
