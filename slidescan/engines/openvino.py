"""The CPU engine: the same network compiled by OpenVINO."""

from __future__ import annotations

import copy
import sys
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slidescan.geometry import PATCH_PX
from slidescan.networks import Network
from slidescan.networks.network import probability

# openvino reports its import and every conversion to the network through this package; where it
# cannot be imported, openvino falls back to a stub of its own. Nothing may leave a hospital.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
import openvino as ov  # noqa: E402  (the line above must come first)

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class _Scores(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return probability(self.network(x))


class OpenVINOEngine:
    """One compiled graph for every image size: uint8 RGB in, probabilities out.

    The precision is always named: left to itself OpenVINO takes bf16 where a processor has AMX.
    """

    def __init__(self, network: Network, precision: str, threads: int) -> None:
        self._compiled = ov.Core().compile_model(
            _convert(network),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _HINTS[precision],
                "INFERENCE_NUM_THREADS": threads,
                "PERFORMANCE_HINT": "LATENCY",
                # Kernels it keeps, of all shapes; the default grows to hundreds of megabytes.
                "CPU_RUNTIME_CACHE_CAPACITY": 256,
            },
        )
        self._request = self._compiled.create_infer_request()

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """P(tumour) of RGB (N, H, W, 3) uint8: (N, h, w) float32."""
        scores: NDArray[np.float32] = self._request.infer([pixels])[0].astype(np.float32)
        return scores


def _convert(network: Network) -> Any:
    """An OpenVINO model that takes (N, H, W, 3) uint8 of any size."""
    example = torch.zeros(2, 3, 2 * PATCH_PX, 3 * PATCH_PX)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about the inside of torch.export
        exported = torch.export.export(_Scores(copy.deepcopy(network)).cpu().eval(), (example,))
        model = ov.convert_model(exported)
    model.reshape([-1, 3, -1, -1])
    steps = ov.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().model().set_layout(ov.Layout("NCHW"))
    return steps.build()
