"""The CPU engine: a compiled graph of a network, run by OpenVINO. Needs no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidescan.engines.openvino.runtime import ov
from slidescan.tools.hardware import kernel_limit

DEVICE = "CPU"
_HINTS = {"fp32": "f32", "bf16": "bf16"}
_WITHOUT_BF16 = (
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX2_VNNI_2",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
)
"""Limits of oneDNN (`kernel_limit`) that take bf16 from it. OpenVINO names BF16 all the same."""


class OpenVINOEngine:
    """Runs a graph made by `compiling.compiled`: uint8 RGB in, probabilities out.

    A graph of a valid network takes images of every size.
    """

    def __init__(self, graph: bytes, precision: str, threads: int) -> None:
        self.compiled = ov.Core().import_model(graph, DEVICE, properties(precision, threads))
        self._request = self.compiled.create_infer_request()

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """P(tumour) of RGB (N, H, W, 3) uint8: (N, h, w) float32."""
        # astype copies: the request keeps the array that it gave.
        scores: NDArray[np.float32] = self._request.infer([pixels])[0].astype(np.float32)
        return scores


def properties(precision: str, threads: int) -> dict[str, Any]:
    """OpenVINO's settings. The precision is always named: some processors default to bf16."""
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        # Pinned, the threads of every engine, and of every process, lie on the same cores.
        "ENABLE_CPU_PINNING": False,
        # Kernels it keeps, of all shapes; the default grows to hundreds of megabytes.
        "CPU_RUNTIME_CACHE_CAPACITY": 256,
    }


def processor() -> tuple[str, list[str]]:
    """The processor's name and the arithmetic it may use in hardware: FP32, BF16, INT8, ..."""
    core = ov.Core()
    name = core.get_property(DEVICE, "FULL_DEVICE_NAME")
    arithmetic = list(core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))
    if kernel_limit() in _WITHOUT_BF16:
        arithmetic = [each for each in arithmetic if each != "BF16"]
    return str(name), arithmetic


def has_bf16() -> bool:
    """Whether this processor multiplies bf16 in hardware, and oneDNN is not kept from it."""
    return "BF16" in processor()[1]
