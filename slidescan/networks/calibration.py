"""Calibration: a monotone map of logits at the end of a network, so all that runs it has it."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from slidescan.networks.logit_map import LogitMap


class Calibrate(nn.Module):
    """Logits (N, 2, h, w) to calibrated logits, each cell for itself.

    It has no tensors: a network's weights are the same with and without.
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
        # Not torch.stack: its export holds the shape of the example, and OpenVINO gave noise.
        return torch.cat((-half, half), dim=1)


def broken_line(x: Tensor, by: LogitMap) -> Tensor:
    """Interpolate `by.isotonic` at `x`, of any shape.

    A sum of clamped steps: what torch.export and OpenVINO have operations for, and without the
    cancellation of a sum of hinges.
    """
    assert by.isotonic is not None
    (first, start), (last, _) = by.isotonic[0], by.isotonic[-1]
    y = start + (torch.clamp(x, max=first) - first) / by.temperature
    for (x0, y0), (x1, y1) in pairwise(by.isotonic):
        y = y + (torch.clamp(x, min=x0, max=x1) - x0) * ((y1 - y0) / (x1 - x0))
    return y + (torch.clamp(x, min=last) - last) / by.temperature
