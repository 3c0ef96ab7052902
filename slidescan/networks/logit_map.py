"""What becomes of logits, as configuration."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field, field_validator

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
