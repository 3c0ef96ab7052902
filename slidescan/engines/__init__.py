"""What runs a network: torch is the reference, OpenVINO the fast one on a CPU."""

from __future__ import annotations

import importlib.util
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


def make_engine(
    network: Network,
    name: Name | None = None,
    device: str = "cpu",
    precision: Precision = "fp32",
    threads: int | None = None,
) -> Engine:
    """Build an engine; without a name, OpenVINO on the CPU and torch on anything else.

    Raises `ConfigError` for a combination that does not exist.
    """
    threads = threads or cores()
    chosen = name or ("openvino" if device == "cpu" else "torch")
    if chosen == "torch":
        from slidescan.engines.torch import TorchEngine

        return TorchEngine(network, device, precision, threads)
    if device != "cpu":
        raise ConfigError(f"--engine openvino runs on the cpu, not on {device}; use --engine torch")
    if precision == "fp16":
        raise ConfigError("--engine openvino has no fp16 on the cpu; use --precision bf16 or fp32")
    if importlib.util.find_spec("openvino") is None:
        raise ConfigError("--engine openvino: not installed; pip install openvino, or use torch")
    from slidescan.engines.openvino import OpenVINOEngine

    return OpenVINOEngine(network, precision, threads)
