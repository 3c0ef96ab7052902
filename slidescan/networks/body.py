"""The interface of an architecture's body."""

from __future__ import annotations

from torch import nn

from slidescan.geometry import Field


class Body(nn.Module):
    """(N, 3, H, W) to features (N, channels, h, w)."""

    channels: int
    field: Field | None
    """Field of view of a feature; None if the body pads, as it then depends on the image's size."""
