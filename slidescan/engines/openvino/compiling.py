"""From a network to the compiled graph that `OpenVINOEngine` runs. Needs torch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from slidescan.engines.openvino.engine import DEVICE, properties
from slidescan.engines.openvino.graph import convert
from slidescan.engines.openvino.runtime import ov
from slidescan.errors import ConfigError, lacks_memory
from slidescan.geometry import PATCH_PX
from slidescan.networks.fast_rewrites import rewritten
from slidescan.networks.network import Network, probability
from slidescan.networks.shift_and_stitch import ShiftAndStitch


class _Scores(nn.Module):
    def __init__(self, network: Network | ShiftAndStitch) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return probability(self.network(x))


def compiled(network: Network | ShiftAndStitch, precision: str) -> bytes:
    """The graph of `network` after OpenVINO's optimisations for this processor.

    The number of threads is set when the graph is loaded, so one graph serves all engines. Raises
    `ConfigError` where OpenVINO has no kernel for the precision on this processor.
    """
    model = _model(network)
    try:
        made = ov.Core().compile_model(model, DEVICE, properties(precision, threads=1))
    except RuntimeError as error:
        if lacks_memory(error):
            raise
        raise ConfigError(
            f"OpenVINO cannot compile the network in {precision} for this processor: "
            f"{str(error).strip().splitlines()[-1]}; use --precision fp32, or --engine torch"
        ) from error
    exported: bytes = made.export_model().getvalue()
    return exported


def _model(network: Network | ShiftAndStitch) -> Any:
    """An OpenVINO model that takes (N, H, W, 3) uint8: of any size, or patches if it pads."""
    side = -1 if network.plan.valid else PATCH_PX
    model = convert(_Scores(rewritten(network)).eval(), (-1, 3, side, side))
    steps = ov.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().model().set_layout(ov.Layout("NCHW"))
    return steps.build()
