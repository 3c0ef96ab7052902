"""What every architecture is to the network around it."""

from __future__ import annotations

from torch import nn

from slidescan.geometry import Field


class Body(nn.Module):
    """(N, 3, H, W) to features (N, channels, h, w)."""

    channels: int
    field: Field | None
    """What a feature sees; None where the network pads, so that it depends on the image's size."""
