"""The processors, devices and memory that this process may use."""

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
    """Processors that this process may use; taskset, SLURM and Docker can restrict them."""
    allowed = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = CPU_MAX.read_text(encoding="ascii").split()
        return max(1, min(allowed, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or the quota "max"
        return allowed


def cuda_devices() -> int:
    """The number of CUDA devices that torch sees; torch is imported only if there may be one.

    There is none for a CPU build of torch, or for a CUDA build without NVIDIA's driver.
    """
    try:
        build = version("torch").partition("+")[2]
    except PackageNotFoundError:
        return 0
    # A ROCm build calls AMD's GPUs CUDA devices too, and uses another driver.
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


def kernel_limit() -> str:
    """The instruction set above which oneDNN, so OpenVINO and torch, uses none; "" for no limit.

    https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html
    """
    return os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()


def instruction_sets() -> str:
    """The instruction sets of this processor as one line, to tell processors apart."""
    # Line by line: with a hundred cores the kernel needs long for the whole file.
    with suppress(OSError), CPU_INFO.open(encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(("flags", "Features")):  # x86, ARM
                return line.partition(":")[2].strip()
    return f"{platform.machine()} {platform.processor()}"


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for reuse, for the whole process.

    torch allocates the same large activations for every batch. If glibc returns them to the system
    each time, they cost a page fault per 4 KiB: on two cores a scan took 2.1 times as long and
    training up to 1.4 times. Without glibc this does nothing.
    """
    _glibc(-4, 0)  # M_MMAP_MAX, of malloc.h
    _glibc(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def share_freed_memory() -> None:
    """Make glibc use two pools of memory for all threads, instead of one per thread.

    A thread can then reuse what another freed. The peak memory of a scan of a large slide was 50 MB
    lower, in the same time. Without glibc this does nothing.
    """
    _glibc(-8, 2)  # M_ARENA_MAX


def _glibc(parameter: int, value: int) -> None:
    """Set a parameter of malloc if it is glibc's."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(parameter, value)
