"""Keeps the memory that a training step frees, for the next step.

glibc returns freed large arrays to the system; the next step allocates them again, and the system zeroes each page.
"""

from __future__ import annotations

import ctypes

# Parameters of glibc's mallopt(3), and what switches each of them off.
M_TRIM_THRESHOLD, NEVER_TRIM = -1, -1
M_MMAP_MAX, NEVER_MMAP = -4, 0


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory for later arrays; False where there is no glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl and macOS have no mallopt, Windows no library without a name
        return False
    return bool(mallopt(M_MMAP_MAX, NEVER_MMAP) and mallopt(M_TRIM_THRESHOLD, NEVER_TRIM))
