"""What runs a network: torch is the reference, OpenVINO the fast one on a CPU."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from torch import cuda  # not torch: the module of that name in this package would shadow it

from slidescan.errors import ConfigError
from slidescan.networks.finer import Finer
from slidescan.networks.network import Network
from slidescan.scan import Engine

Name = Literal["openvino", "torch"]
Precision = Literal["fp32", "bf16", "fp16"]

AUTO: Literal["auto"] = "auto"

TOLERANCE: dict[str, float] = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-2}
"""How far a map's cell may be from its patch, in probability."""


@dataclass(frozen=True, slots=True)
class Backend:
    """What runs a network, where, in which arithmetic, and by how many threads."""

    engine: Name
    device: str
    """cpu, cuda:N or cuda, which for maps is every GPU (see `spread`), otherwise the first."""
    precision: Precision
    threads: int


def choose(
    engine: Name | None, device: str, precision: Precision | Literal["auto"], threads: int
) -> Backend:
    """Settle what is left open: an engine that is None, a device or precision that is auto.

    OpenVINO runs on the CPU, torch on GPUs and for fp16. The device is a GPU where there is one.
    The precision is bf16 where OpenVINO runs on a processor that has it, which was measured to be
    twice as fast, and fp32 elsewhere. Raises `ConfigError` for a device that is not there or a
    combination that does not exist.
    """
    if device == AUTO:
        device = "cuda" if cuda.device_count() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ConfigError(f"--device {device}: not a device; use auto, cpu, cuda or e.g. cuda:1")
    chosen: Name = engine or ("openvino" if device == "cpu" and precision != "fp16" else "torch")
    if chosen == "openvino" and device != "cpu":
        raise ConfigError(f"--engine openvino runs on the cpu, not {device}; use --engine torch")
    if chosen == "openvino" and precision == "fp16":
        raise ConfigError("--engine openvino has no fp16; use --engine torch, or bf16 or fp32")
    there = cuda.device_count()
    if device != "cpu" and int(device.partition(":")[2] or 0) >= there:
        raise ConfigError(f"--device {device}: torch finds {there} CUDA devices; use --device cpu")
    return Backend(chosen, device, _fastest(chosen) if precision == AUTO else precision, threads)


def _fastest(engine: Name) -> Precision:
    if engine == "openvino":
        from slidescan.engines.openvino import has_bf16

        return "bf16" if has_bf16() else "fp32"
    return "fp32"


def make_engine(network: Network | Finer, backend: Backend) -> Engine:
    """Build the engine that `choose` named."""
    # Imported here: each engine's library takes seconds to load.
    if backend.engine == "torch":
        from slidescan.engines.torch import TorchEngine

        return TorchEngine(network, backend.device, backend.precision, backend.threads)
    from slidescan.engines.openvino import OpenVINOEngine

    return OpenVINOEngine(network, backend.precision, backend.threads)
