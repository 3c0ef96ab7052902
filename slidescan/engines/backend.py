"""Chooses the engine that runs a network, its device and its arithmetic."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from slidescan.errors import ConfigError
from slidescan.tools import hardware

Name = Literal["openvino", "torch"]
Precision = Literal["fp32", "bf16", "fp16"]
Arithmetic = Precision | Literal["int8+bf16", "int8+fp32"]
"""One precision for all layers, or int8 for the dense stem (see `networks.quantised`) and the
precision of the other layers."""
Wanted = Arithmetic | Literal["auto", "int8"]
"""What `choose` takes: also auto, and int8 without the precision of the other layers."""

AUTO: Literal["auto"] = "auto"
INT8: Literal["int8"] = "int8"

TOLERANCE: dict[str, float] = {
    "fp32": 1e-5,
    "bf16": 2e-2,
    "fp16": 2e-2,
    "int8+bf16": 5e-2,
    "int8+fp32": 5e-2,
}
"""The largest allowed difference, in probability, of a map's cell from its patch."""


@dataclass(frozen=True, slots=True)
class Backend:
    """An engine, its device, its arithmetic and its number of threads."""

    engine: Name
    device: str
    """cpu, cuda:N or cuda: every GPU for maps (see `engine_pool`), otherwise the first."""
    precision: Arithmetic
    threads: int

    def record(self) -> dict[str, str]:
        """What probabilities depend on. They do not depend on which GPU or how many threads."""
        device = self.device.partition(":")[0]
        return {"engine": self.engine, "device": device, "precision": self.precision}


def choose(engine: Name | None, device: str, precision: Wanted, threads: int) -> Backend:
    """Resolve an engine of None, a device of auto, and a precision of auto or int8.

    - engine: OpenVINO on the CPU; torch on a GPU, and for fp16.
    - device: a GPU where there is one, else the CPU.
    - auto: bf16 where OpenVINO runs on a processor with bf16 in hardware (twice as fast when
      measured), else fp32. Never int8, whose errors are at least twice those of bf16.
    - int8: with bf16 or fp32 for the other layers, by the same rule. A map records both.

    Raises `ConfigError` for a missing device and for combinations that do not exist.
    """
    if device == AUTO:
        device = "cuda" if hardware.cuda_devices() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ConfigError(f"--device {device}: not a device; use auto, cpu, cuda or e.g. cuda:1")
    chosen: Name = engine or ("openvino" if device == "cpu" and precision != "fp16" else "torch")
    if chosen == "openvino" and device != "cpu":
        raise ConfigError(f"--engine openvino runs on the cpu, not {device}; use --engine torch")
    if chosen == "openvino" and precision == "fp16":
        raise ConfigError("--engine openvino has no fp16; use --engine torch, or bf16 or fp32")
    if chosen == "torch" and precision.startswith(INT8):
        raise ConfigError(
            f"--precision int8 runs by openvino on the cpu, not by torch on {device}; "
            "use --engine openvino --device cpu, or bf16 or fp32"
        )
    if device != "cpu" and int(device.partition(":")[2] or 0) >= hardware.cuda_devices():
        raise ConfigError(
            f"--device {device}: torch finds {hardware.cuda_devices()} CUDA devices; "
            "use --device cpu"
        )
    return Backend(chosen, device, _settled(chosen, precision), threads)


def _settled(engine: Name, precision: Wanted) -> Arithmetic:
    if precision not in (AUTO, INT8):
        return precision
    if engine == "torch":
        return "fp32"
    from slidescan.engines.openvino.engine import has_bf16

    if precision == AUTO:
        return "bf16" if has_bf16() else "fp32"
    return "int8+bf16" if has_bf16() else "int8+fp32"


def beside_int8(precision: str) -> str:
    """The precision of the layers that are not in 8 bits; empty where int8 is not used.

    >>> beside_int8("int8+bf16"), beside_int8("bf16")
    ('bf16', '')
    """
    return precision.partition(f"{INT8}+")[2]
