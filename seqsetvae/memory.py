"""The memory of the process: its peak, and the memory that a training step frees, which is kept for the next step.

glibc returns freed large arrays to the system; the next step allocates them again, and the system zeroes each page.
"""

from __future__ import annotations

import ctypes
import math
import sys
from pathlib import Path

# Parameters of glibc's mallopt(3), and what switches each of them off.
M_TRIM_THRESHOLD, NEVER_TRIM = -1, -1
M_MMAP_MAX, NEVER_MMAP = -4, 0
STATUS = Path("/proc/self/status")  # Linux tells a process's own peak; elsewhere the figure may include its parent's


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for later arrays; False where there is no glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl and macOS have no mallopt, Windows no library without a name
        return False
    return bool(mallopt(M_MMAP_MAX, NEVER_MMAP) and mallopt(M_TRIM_THRESHOLD, NEVER_TRIM))


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
