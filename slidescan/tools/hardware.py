"""What this process may use of the machine, and how it keeps it."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""A container's share of the processors: microseconds of each period (cgroup v2)."""

CPU_INFO = Path("/proc/cpuinfo")


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


def cuda_devices() -> int:
    """How many CUDA devices torch sees; torch is imported only where there may be one.

    A build of torch for the CPU, and one for NVIDIA's cards without NVIDIA's driver, sees none.
    """
    try:
        build = version("torch").partition("+")[2]
    except PackageNotFoundError:
        return 0
    # ROCm's build calls AMD's cards CUDA devices as well, and has a driver of its own.
    if build == "cpu" or (not build.startswith("rocm") and not _has_nvidia_driver()):
        return 0
    from torch import cuda

    return cuda.device_count()


def _has_nvidia_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def instruction_sets() -> str:
    """What tells this processor's instruction sets from another's, as one line."""
    # Line by line: the kernel takes its time over the file of a hundred cores.
    with suppress(OSError), CPU_INFO.open() as file:
        for line in file:
            if line.startswith(("flags", "Features")):  # x86, ARM
                return line.partition(":")[2].strip()
    return f"{platform.machine()} {platform.processor()}"


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
