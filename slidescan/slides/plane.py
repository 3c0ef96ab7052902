"""The scan plane: a slide resampled to exactly the resolution asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slidescan.geometry import Box
from slidescan.protocols import WHITE
from slidescan.slides.resampling import Taps, resample

if TYPE_CHECKING:
    from slidescan.slides.slide import Slide


@dataclass(frozen=True, slots=True)
class Plane:
    """The scan plane: a slide resampled to exactly `mpp`, origin at level-0 (0, 0).

    Made by `Slide.plane`; fulfils `protocols.Reader`. Pixel (i, j) covers the square
    [i*mpp, (i+1)*mpp) x [j*mpp, (j+1)*mpp) um of the slide.
    """

    slide: Slide = field(repr=False)
    mpp: float
    level: int
    ratio: tuple[float, float]
    """level px per scan-plane px, (y, x)"""
    shape_px: tuple[int, int]
    bounds: Box
    """slide.bounds_l0 on this plane, rounded outwards"""

    def read(self, box: Box) -> NDArray[np.uint8]:
        """RGB of `box`, scan-plane px, (H, W, 3) uint8; white outside the slide and in gaps.

        The box may lie partly or wholly outside. A pixel has the same value whichever box it is
        read in. Safe to call from several threads.

        Raises SlideError where the slide cannot be read.
        """
        return self.read_with_gaps(box)[0]

    def read_with_gaps(self, box: Box) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """`read`, and which pixels depend on pixels that the file does not hold.

        The second array is (H, W) bool, or None where nothing is missing.

        Raises SlideError where the slide cannot be read.
        """
        inside = box.clip(Box(0, 0, *self.shape_px))
        if not inside.area:
            return np.full((*box.shape, 3), WHITE, np.uint8), None
        pixels, gaps = read_resampled(self.slide, self.level, inside, self.ratio)
        if inside == box:
            return pixels, gaps
        here = inside.shift(-box.y0, -box.x0).slices
        # Exactly white: resampled, the edge of the slide would ring into the first pixels outside.
        out = np.full((*box.shape, 3), WHITE, np.uint8)
        out[here] = pixels
        if gaps is None:
            return out, None
        around = np.zeros(box.shape, np.bool_)
        around[here] = gaps
        return out, around


def read_resampled(
    slide: Slide, level: int, box: Box, ratio: tuple[float, float]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """RGB of a box of pixels that span `ratio` (y, x) pixels of a level, and its gaps.

    A pixel has the same value whichever box it is read in.

    Raises SlideError where the slide cannot be read.
    """
    rows, columns = Taps.of(box.y0, box.y1, ratio[0]), Taps.of(box.x0, box.x1, ratio[1])
    support = Box(rows.start_src, columns.start_src, rows.stop_src, columns.stop_src)
    source, missing = slide.read_level_with_gaps(level, support)
    gaps = None if missing is None else columns.touched(rows.touched(missing, 0), 1)
    return resample(source, rows, columns), gaps
