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
    _glibc(-4, 0)  # M_MMAP_MAX, of malloc.h
    _glibc(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def share_freed_memory() -> None:
    """Tell glibc, for the whole process, to keep what is freed in two pools, not in one a thread.

    A thread reuses what another freed: the peak of a scan, whose threads each read large overviews
    and tiles, was 50 MB lower on a large slide, in the same time. Elsewhere this does nothing.
    """
    _glibc(-8, 2)  # M_ARENA_MAX


def _glibc(parameter: int, value: int) -> None:
    """Set a parameter of glibc's malloc, where there is one."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(parameter, value)
