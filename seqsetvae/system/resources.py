"""The memory of the process and the processor cores that it may use. Imports no torch.

glibc returns freed large arrays to the system; the next training step allocates them again, and the system zeroes each
page, so freed memory is kept for the next step. But the gaps between arrays of ever different sizes add up over
hundreds of epochs, so all is returned after each of them.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from seqsetvae.system.console import warn

# Parameters of glibc's mallopt(3), and what switches each of them off.
M_TRIM_THRESHOLD, NEVER_TRIM = -1, -1
M_MMAP_MAX, NEVER_MMAP = -4, 0
STATUS = Path("/proc/self/status")  # Linux tells a process's own peak; elsewhere the figure may include its parent's
SECONDS = 30.0  # of work, after which it is known whether other programs use the cores
BUSY = 0.25  # share of the time in which threads wanted to run, and waited for a core
MEMBERSHIP, HIERARCHY = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
THREADS = Path("/proc/self/task")


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for later arrays; False where there is no glibc."""
    mallopt = _of_glibc("mallopt")
    return bool(mallopt and mallopt(M_MMAP_MAX, NEVER_MMAP) and mallopt(M_TRIM_THRESHOLD, NEVER_TRIM))


def return_freed_memory() -> bool:
    """Have glibc give to the system, once, what it has kept; False if there was nothing, or where there is no glibc."""
    malloc_trim = _of_glibc("malloc_trim")
    return bool(malloc_trim and malloc_trim(0))


def release() -> None:
    """Free a training that has ended, and give its memory to the system: 1 GiB for SeqSetVAE.

    A trainer and its model refer to each other, so both would stay while the next ones are made.
    """
    gc.collect()
    return_freed_memory()


def _of_glibc(name: str) -> Any:
    """A function of the C library; None: it has no such function."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # musl and macOS lack it, Windows has no library without a name
        return None


def peak_mib() -> float:
    """Most memory this process has had resident, in MiB; NaN on Windows, which does not tell."""
    if STATUS.exists():
        return status_mib("VmHWM")
    try:
        import resource
    except ImportError:
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def status_mib(name: str) -> float:
    """An entry of Linux's status of this process, in MiB."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(name)) / 1024


# ------------------------------------------------------------------ processor cores


def allowed_cores(membership: Path = MEMBERSHIP, hierarchy: Path = HIERARCHY) -> float | None:
    """The CPU limit of the control group (a container, a batch system) in cores; None: there is none."""
    limits = []
    with suppress(OSError, ValueError):
        for line in membership.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            version_2 = not controllers
            if version_2 or "cpu" in controllers.split(","):
                folder = hierarchy if version_2 else hierarchy / "cpu"
                of_group = folder / group.lstrip("/")
                limits += [_limit(each) for each in (of_group, *of_group.parents) if each.is_relative_to(folder)]
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(folder: Path) -> float | None:
    """The limit of one group: microseconds of CPU time in each period, in cpu.max or, in version 1, in two files."""
    with suppress(OSError, ValueError):
        most, period = (folder / "cpu.max").read_text().split()
        return None if most == "max" else int(most) / int(period)
    with suppress(OSError, ValueError):
        quota, of = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return None if quota < 0 else quota / of
    return None


def fitting_threads(threads: int, allowed: float | None) -> int:
    """So many threads as there are allowed cores, as more only wait for each other; one that was set stays."""
    if allowed is None or "OMP_NUM_THREADS" in os.environ:
        return threads
    return min(threads, max(1, math.floor(allowed)))


def running_and_waiting() -> tuple[float, float] | None:
    """Seconds in which the threads of this process have run, and in which they waited for a core; None: not known."""
    times = []
    for thread in THREADS.glob("*"):
        with suppress(OSError, ValueError):  # it has ended
            times.append([int(number) / 1e9 for number in (thread / "schedstat").read_text().split()[:2]])
    return (sum(ran for ran, _ in times), sum(waited for _, waited in times)) if times else None


@contextmanager
def watched_cores(threads: int, seconds: float = SECONDS) -> Iterator[None]:
    """Warn once, during the work inside, if other programs keep its threads from running."""
    before = running_and_waiting() if threads > 1 else None
    if before is None:
        yield
        return
    timer = threading.Timer(seconds, lambda: _warn_if_busy(before, running_and_waiting(), threads))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # what it has begun to print is printed


def _warn_if_busy(before: tuple[float, float], seconds: tuple[float, float] | None, threads: int) -> None:
    if seconds is None:
        return
    ran, waited = (max(0.0, after - earlier) for after, earlier in zip(seconds, before, strict=True))
    share = waited / max(ran + waited, 1e-9)
    if share > BUSY:
        warn(
            f"Other programs use the cores: the {threads} threads waited {share:.0%} of the time for one, and each "
            "operation waits for the slowest thread. It may be faster to interrupt this run and resume it with "
            "OMP_NUM_THREADS=1 in the environment."
        )
