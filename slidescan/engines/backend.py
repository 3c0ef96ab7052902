"""Which engine runs a network, on which device, in which arithmetic."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from slidescan.errors import ConfigError
from slidescan.tools import hardware

Name = Literal["openvino", "torch"]
Precision = Literal["fp32", "bf16", "fp16"]
Arithmetic = Precision | Literal["int8+bf16", "int8+fp32"]
"""A network's: all in one precision or, after int8, all but what is in 8 bits (see `quantised`)."""
Wanted = Arithmetic | Literal["auto", "int8"]
"""What `choose` settles."""

AUTO: Literal["auto"] = "auto"
INT8: Literal["int8"] = "int8"

TOLERANCE: dict[str, float] = {
    "fp32": 1e-5,
    "bf16": 2e-2,
    "fp16": 2e-2,
    "int8+bf16": 5e-2,
    "int8+fp32": 5e-2,
}
"""How far a map's cell may be from its patch, in probability."""


@dataclass(frozen=True, slots=True)
class Backend:
    """What runs a network, where, in which arithmetic, and by how many threads."""

    engine: Name
    device: str
    """cpu, cuda:N or cuda, which for maps is every GPU (see `spread`), otherwise the first."""
    precision: Arithmetic
    threads: int

    def record(self) -> dict[str, str]:
        """What probabilities depend on; not which GPU, nor how many threads."""
        device = self.device.partition(":")[0]
        return {"engine": self.engine, "device": device, "precision": self.precision}


def choose(engine: Name | None, device: str, precision: Wanted, threads: int) -> Backend:
    """Settle what is left open: an engine that is None, a device or precision that is auto, int8.

    OpenVINO runs on the CPU, torch on GPUs and for fp16. The device is a GPU where there is one.
    The precision is bf16 where OpenVINO runs on a processor that has it, which was measured to be
    twice as fast, and fp32 elsewhere; beside int8 as well, so that a map names what made it. auto
    never takes int8, which errs at least twice as much as bf16. Raises `ConfigError` for a device
    that is not there or a combination that does not exist.
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
    """The precision of the layers that int8 leaves alone; empty where nothing is in 8 bits.

    >>> beside_int8("int8+bf16"), beside_int8("bf16")
    ('bf16', '')
    """
    return precision.partition(f"{INT8}+")[2]
