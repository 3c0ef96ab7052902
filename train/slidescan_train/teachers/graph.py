"""A teacher's network as a graph of OpenVINO, which runs it on the CPU faster than torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from slidescan.engines.openvino.engine import DEVICE, properties
from slidescan.engines.openvino.graph import convert
from slidescan.engines.openvino.runtime import ov
from slidescan.networks.fast_rewrites import rewritten
from slidescan.networks.network import Network
from slidescan_train.teachers.sources import SHAPE

_PRECISIONS = {"bf16-mixed": "bf16"}


class Graph:
    """Gives what an OpenVINO model of one input and one output gives for (N, 3, 96, 96), any N."""

    def __init__(self, model: Any, precision: str) -> None:
        """Compile `model` for torch's number of threads. Raises `RuntimeError`.

        `precision` is the training's: with bf16-mixed it runs in bf16 too.
        """
        options = properties(_PRECISIONS.get(precision, "fp32"), torch.get_num_threads())
        self._compiled = ov.Core().compile_model(model, DEVICE, options)

    @classmethod
    def of(cls, network: Network, precision: str) -> Graph:
        """The logits of a network in evaluation mode."""
        return cls(convert(rewritten(network), (-1, *SHAPE)), precision)

    def __call__(self, x: Tensor) -> Tensor:
        """The output as float32, on the device of `x`. Raises `RuntimeError`."""
        (answer,) = self._compiled([x.float().cpu().numpy()]).values()
        return torch.from_numpy(answer.copy()).float().to(x.device)
