"""The CPU engine: the same network compiled by OpenVINO."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from slidescan.engines.openvino.graph import convert
from slidescan.engines.openvino.runtime import ov
from slidescan.geometry import PATCH_PX
from slidescan.networks.fast_rewrites import rewritten
from slidescan.networks.network import Network, probability
from slidescan.networks.shift_and_stitch import ShiftAndStitch

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class _Scores(nn.Module):
    def __init__(self, network: Network | ShiftAndStitch) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return probability(self.network(x))


class OpenVINOEngine:
    """One compiled graph, of a valid network for every image size: uint8 RGB in, probabilities out.

    The precision is always named: left to itself OpenVINO takes bf16 where a processor has AMX.
    """

    def __init__(self, network: Network | ShiftAndStitch, precision: str, threads: int) -> None:
        self._compiled = ov.Core().compile_model(
            _convert(network),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _HINTS[precision],
                "INFERENCE_NUM_THREADS": threads,
                "PERFORMANCE_HINT": "LATENCY",
                # Pinned, the threads of every engine, and of every process, lie on the same cores.
                "ENABLE_CPU_PINNING": False,
                # Kernels it keeps, of all shapes; the default grows to hundreds of megabytes.
                "CPU_RUNTIME_CACHE_CAPACITY": 256,
            },
        )
        self._request = self._compiled.create_infer_request()

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """P(tumour) of RGB (N, H, W, 3) uint8: (N, h, w) float32."""
        # astype copies: the request keeps the array that it gave.
        scores: NDArray[np.float32] = self._request.infer([pixels])[0].astype(np.float32)
        return scores


def processor() -> tuple[str, list[str]]:
    """Its name, and the arithmetic it has by itself: FP32, BF16, INT8, ..."""
    core = ov.Core()
    name = core.get_property("CPU", "FULL_DEVICE_NAME")
    return str(name), list(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def has_bf16() -> bool:
    """Whether this processor multiplies bf16 by itself."""
    return "BF16" in processor()[1]


def _convert(network: Network | ShiftAndStitch) -> Any:
    """An OpenVINO model that takes (N, H, W, 3) uint8: of any size, or patches if it pads."""
    side = -1 if network.plan.valid else PATCH_PX
    model = convert(_Scores(rewritten(network)).eval(), (-1, 3, side, side))
    steps = ov.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().model().set_layout(ov.Layout("NCHW"))
    return steps.build()
