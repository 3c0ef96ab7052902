"""Calibration: a monotone map of the logits, as the last layer of a network."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from slidescan.networks.logit_map import LogitMap


class Calibrate(nn.Module):
    """Logits (N, 2, h, w) to calibrated logits, each cell by itself.

    It has no tensors, so it does not change the weights of a network.
    """

    def __init__(self, by: LogitMap) -> None:
        super().__init__()
        self.by = by

    def forward(self, logits: Tensor) -> Tensor:
        # Half-precision logits would be rounded once more.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.by.isotonic is None:
            return logits / self.by.temperature
        half = broken_line(logits[:, 1:] - logits[:, :1], self.by) / 2
        # Not torch.stack: exported, it was limited to the example's shape, and OpenVINO's result
        # was wrong.
        return torch.cat((-half, half), dim=1)


def broken_line(x: Tensor, by: LogitMap) -> Tensor:
    """Interpolate `by.isotonic` linearly at `x`, of any shape.

    As a sum of clamped segments, for which torch.export and OpenVINO have operations. A sum of
    hinge functions would lose digits by cancellation.
    """
    assert by.isotonic is not None
    (first, start), (last, _) = by.isotonic[0], by.isotonic[-1]
    y = start + (torch.clamp(x, max=first) - first) / by.temperature
    for (x0, y0), (x1, y1) in pairwise(by.isotonic):
        y = y + (torch.clamp(x, min=x0, max=x1) - x0) * ((y1 - y0) / (x1 - x0))
    return y + (torch.clamp(x, min=last) - last) / by.temperature
