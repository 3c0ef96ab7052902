"""The interface of every architecture: features of an image."""

from __future__ import annotations

from torch import nn

from slidescan.geometry import Field


class Body(nn.Module):
    """(N, 3, H, W) to features (N, channels, h, w)."""

    channels: int
    field: Field | None
    """A feature's field of view; None with zero padding, where it depends on the image size."""
