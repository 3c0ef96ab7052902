"""Engines that average: over eight orientations of the pixels, over several networks, or both.

The values are sorted before they are added, so a mean does not depend on their order. A mirrored
image and models named in another order give the same number to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slidescan.geometry import Field
from slidescan.protocols import Engine

Tta = Literal["d4"]
"""Test-time augmentation. d4: the square's eight rotations and reflections."""

Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Orientation:
    """One element of D4: quarter turns, then a reflection if `mirrored`.

    Axes 1 and 2 are height and width.

    >>> image = np.arange(6).reshape(1, 2, 3)
    >>> [Orientation(1, True).apply(image).tolist()]
    [[[[5, 2], [4, 1], [3, 0]]]]
    >>> all((o.undo(o.apply(image)) == image).all() for o in D4)
    True
    """

    turns: int
    mirrored: bool

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        turned = np.rot90(pixels, self.turns, axes=(1, 2))
        return np.ascontiguousarray(turned[:, :, ::-1] if self.mirrored else turned)

    def undo(self, scores: Scores) -> Scores:
        return np.rot90(scores[:, :, ::-1] if self.mirrored else scores, -self.turns, axes=(1, 2))


D4 = tuple(Orientation(turns, mirrored) for mirrored in (False, True) for turns in range(4))


@dataclass(frozen=True, slots=True)
class Oriented:
    """The mean over the eight orientations of the pixels. Fulfils `Engine`."""

    engine: Engine
    field: Field

    def __call__(self, pixels: NDArray[np.uint8]) -> Scores:
        """P(tumour) of RGB (N, H, W, 3) uint8: (N, h, w)."""
        # Pixels beyond the last output's field would lie before the first one in a mirrored image
        # and shift all outputs.
        height, width = (self.field.extent(self.field.outputs(n)) for n in pixels.shape[1:3])
        needed = pixels[:, :height, :width]
        return mean(o.undo(self.engine(o.apply(needed))) for o in D4)


@dataclass(frozen=True, slots=True)
class Averaged:
    """The mean over several networks. Fulfils `Engine`."""

    members: Sequence[Engine]

    def __call__(self, pixels: NDArray[np.uint8]) -> Scores:
        """P(tumour) of RGB (N, H, W, 3) uint8: (N, h, w)."""
        return mean(member(pixels) for member in self.members)


def mean(values: Iterable[Scores]) -> Scores:
    """Average arrays of one shape and type; the same result for every order of `values`."""
    ordered = np.sort(np.stack(list(values)), axis=0)
    total = np.zeros(ordered.shape[1:], np.float64)
    for scores in ordered:  # one after the other: the order of numpy's sum depends on the shape
        total += scores
    return (total / len(ordered)).astype(ordered.dtype)
