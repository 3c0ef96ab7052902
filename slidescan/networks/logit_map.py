"""A monotone map of log-odds, as configuration: temperature or isotonic regression."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field, field_validator

from slidescan.networks.plan import Settings

Knot = tuple[float, float]
"""Log-odds l1 - l0 of the network, and the calibrated log-odds at this point."""


MOST_KNOTS = 1000
"""A network has an operation for each; calibrate fits far fewer."""


class LogitMap(Settings):
    """Log-odds divided by a temperature, or interpolated between the knots of a monotone curve."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Guo et al. 2017. A value above 1 moves probabilities towards 0.5."""
    isotonic: Annotated[tuple[Knot, ...], Field(min_length=2, max_length=MOST_KNOTS)] | None = None
    """Strictly increasing knots; the slope outside of them is 1 / temperature."""

    @field_validator("isotonic")
    @classmethod
    def _rising(cls, knots: tuple[Knot, ...] | None) -> tuple[Knot, ...] | None:
        # Strictly: with equal values, patches of different scores would become ties.
        for (x0, y0), (x1, y1) in pairwise(knots or ()):
            if not (x0 < x1 and y0 < y1):
                raise ValueError(f"knots must rise in both, and {x0, y0} is before {x1, y1}")
        return knots
