"""What runs a network: torch is the reference, OpenVINO the fast one on a CPU."""

from __future__ import annotations

import os
from typing import Literal

from slidescan.errors import ConfigError
from slidescan.nasnet import Network
from slidescan.scan import Engine

Name = Literal["openvino", "torch"]
Precision = Literal["fp32", "bf16", "fp16"]

TOLERANCE: dict[str, float] = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-2}
"""How far a map's cell may be from its patch, in probability."""


def cores() -> int:
    """Processors this process may use: fewer than the machine's under cgroups or taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose(name: Name | None, device: str, precision: Precision) -> Name:
    """The engine for a device: OpenVINO on the CPU and torch on anything else, unless named.

    Raises `ConfigError` for a combination that does not exist.
    """
    chosen: Name = name or ("openvino" if device == "cpu" else "torch")
    if chosen == "openvino" and device != "cpu":
        raise ConfigError(f"--engine openvino runs on the cpu, not {device}; use --engine torch")
    if chosen == "openvino" and precision == "fp16":
        raise ConfigError("--precision fp16 is not for the cpu; use bf16 or fp32")
    return chosen


def make_engine(
    network: Network, name: Name, device: str, precision: Precision, threads: int
) -> Engine:
    """Build the engine that `choose` named. Raises `ConfigError` where the device is not there."""
    # Imported here: each engine's library takes seconds to load.
    if name == "torch":
        from slidescan.engines.torch import TorchEngine

        return TorchEngine(network, device, precision, threads)
    from slidescan.engines.openvino import OpenVINOEngine

    return OpenVINOEngine(network, precision, threads)
