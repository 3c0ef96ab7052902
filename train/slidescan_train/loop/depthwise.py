"""Depthwise convolutions in float32 while the others of a training on a CPU run in bf16."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def keep_float32(network: nn.Module) -> None:
    """Let autocast pass over the depthwise convolutions of `network`, which a CPU trains.

    oneDNN has no fast backward pass of depthwise convolutions in bf16: it takes about three times
    as long as in float32 (`python -m benchmarks.speed.training --device cpu`). What they give is
    rounded to bf16 again, so the layers after them stay as they are.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            module.forward = _in_float32(module.forward)  # type: ignore[assignment]


def _in_float32(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def inner(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(x.float()).to(x.dtype)

    return inner
