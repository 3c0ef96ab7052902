"""What this process may use of the machine, and how it keeps it."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""A container's share of the processors: microseconds of each period (cgroup v2)."""


def cores() -> int:
    """Processors this process may use: fewer than the machine's under taskset, SLURM or Docker."""
    allowed = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = CPU_MAX.read_text().split()
        return max(1, min(allowed, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or the quota "max"
        return allowed


def keep_freed_memory() -> None:
    """Tell glibc, for the whole process, to reuse freed buffers, not return them to the system.

    torch allocates the same large activations for every batch; fetched afresh from the system
    they cost a page fault per 4 KiB: on two cores a scan took 2.1 times as long and training up to
    1.4 times. Elsewhere than on glibc this does nothing.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
