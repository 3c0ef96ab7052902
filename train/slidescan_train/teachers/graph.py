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


class Graph:
    """Gives what an OpenVINO model of one input and one output gives for (N, 3, 96, 96), any N."""

    def __init__(self, model: Any, precision: str) -> None:
        """Compile `model`, in fp32 or bf16, for torch's threads. Raises `RuntimeError`."""
        options = properties(precision, torch.get_num_threads())
        self._compiled = ov.Core().compile_model(model, DEVICE, options)

    @classmethod
    def of(cls, network: Network, precision: str) -> Graph:
        """The logits of a network in evaluation mode."""
        return cls(convert(rewritten(network), (-1, *SHAPE)), precision)

    def __call__(self, x: Tensor) -> Tensor:
        """The output as float32, on the device of `x`. Raises `RuntimeError`."""
        (answer,) = self._compiled([x.float().cpu().numpy()]).values()
        return torch.from_numpy(answer.copy()).float().to(x.device)
