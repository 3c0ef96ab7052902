"""Types of numbers in settings, with their ranges."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

Probability = Annotated[float, Field(ge=0, le=1)]
# Not strict, as counts are: YAML 1.1 reads 3e-3 as a string.
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd")
    return value


def rising(ends: tuple[float, float]) -> tuple[float, float]:
    """Return the ends of a range. Raises `ValueError` if it ends below its start."""
    if ends[0] > ends[1]:
        raise ValueError(f"the range ends, at {ends[1]:g}, below its start, {ends[0]:g}")
    return ends


Percent = Annotated[int, Field(ge=1, le=100, strict=True)]
Odd = Annotated[int, Field(ge=3, le=31, strict=True), AfterValidator(_odd)]
Sigma = Annotated[float, Field(gt=0, le=5)]
Deviation = Annotated[float, Field(gt=0, le=1)]
