"""What the training patches look like, as the card of a model has it.

Apart from `familiarity`, because cards are read without numpy.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from slidescan.networks.plan import Settings


class Spread(Settings):
    """A figure over the training patches."""

    mean: float
    sd: Annotated[float, Field(gt=0)]


class Reference(Settings):
    """The four figures of the training patches; see `familiarity.measure`."""

    patches: int
    """How many were measured."""
    green: Spread
    contrast: Spread
    sharpness: Spread
    coarseness: Spread
