"""What runs a network: torch is the reference, OpenVINO the fast one on a CPU."""

from __future__ import annotations

import re
from typing import Literal

from torch import cuda  # not torch: the module of that name in this package would shadow it

from slidescan.errors import ConfigError
from slidescan.networks.finer import Finer
from slidescan.networks.network import Network
from slidescan.scan import Engine

Name = Literal["openvino", "torch"]
Precision = Literal["fp32", "bf16", "fp16"]

TOLERANCE: dict[str, float] = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-2}
"""How far a map's cell may be from its patch, in probability."""


def choose(name: Name | None, device: str, precision: Precision) -> Name:
    """The engine for a device unless it is named: OpenVINO on the CPU, else and for fp16 torch.

    Raises `ConfigError` for a device that is not there or a combination that does not exist.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ConfigError(f"--device {device}: not a device; use cpu, cuda or e.g. cuda:1")
    chosen: Name = name or ("openvino" if device == "cpu" and precision != "fp16" else "torch")
    if chosen == "openvino" and device != "cpu":
        raise ConfigError(f"--engine openvino runs on the cpu, not {device}; use --engine torch")
    if chosen == "openvino" and precision == "fp16":
        raise ConfigError("--engine openvino has no fp16; use --engine torch, or bf16 or fp32")
    there = cuda.device_count()
    if device != "cpu" and int(device.partition(":")[2] or 0) >= there:
        raise ConfigError(f"--device {device}: torch finds {there} CUDA devices; use --device cpu")
    return chosen


def make_engine(
    network: Network | Finer, name: Name, device: str, precision: Precision, threads: int
) -> Engine:
    """Build the engine that `choose` named."""
    # Imported here: each engine's library takes seconds to load.
    if name == "torch":
        from slidescan.engines.torch import TorchEngine

        return TorchEngine(network, device, precision, threads)
    from slidescan.engines.openvino import OpenVINOEngine

    return OpenVINOEngine(network, precision, threads)
