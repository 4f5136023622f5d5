"""The memory of the process: its peak, and the memory that a training step frees, which is kept for the next step.

glibc returns freed large arrays to the system; the next step allocates them again, and the system zeroes each page. But
the gaps between arrays of ever different sizes add up over hundreds of epochs, so all is returned after each of them.
"""

from __future__ import annotations

import ctypes
import gc
import math
import sys
from pathlib import Path
from typing import Any

# Parameters of glibc's mallopt(3), and what switches each of them off.
M_TRIM_THRESHOLD, NEVER_TRIM = -1, -1
M_MMAP_MAX, NEVER_MMAP = -4, 0
STATUS = Path("/proc/self/status")  # Linux tells a process's own peak; elsewhere the figure may include its parent's


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
