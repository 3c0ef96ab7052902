"""Calibration: a monotone map of logits at the end of a network, so all that runs it has it."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from slidescan.networks.plan import Settings

Knot = tuple[float, float]
"""Where the log-odds l1 - l0 that the network gives, and the log-odds they become, lie."""


class LogitMap(Settings):
    """What becomes of log-odds: l / temperature, or a broken line through knots."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Guo et al. 2017. Above 1 probabilities move towards 0.5."""
    isotonic: Annotated[tuple[Knot, ...], Field(min_length=2)] | None = None
    """Rises from knot to knot; beyond the first and the last the slope is 1 / temperature."""

    @field_validator("isotonic")
    @classmethod
    def _rising(cls, knots: tuple[Knot, ...] | None) -> tuple[Knot, ...] | None:
        # Strictly: equal outputs would tie patches that the network tells apart.
        for (x0, y0), (x1, y1) in pairwise(knots or ()):
            if not (x0 < x1 and y0 < y1):
                raise ValueError(f"knots must rise in both, and {x0, y0} is before {x1, y1}")
        return knots


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
