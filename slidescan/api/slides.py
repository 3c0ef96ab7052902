"""Read pixels of a slide's scan plane."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from slidescan.geometry import Box
from slidescan.slides.slide import Slide


def read_region(
    slide: str | os.PathLike[str],
    box: tuple[int, int, int, int],
    mpp: float,
    *,
    slide_mpp: float | None = None,
) -> NDArray[np.uint8]:
    """Read a rectangle of the slide, resampled to exactly `mpp` um/px.

    Args:
        slide: any slide that OpenSlide reads.
        box: (x, y, width, height) in pixels of `mpp` um, from the upper-left corner of the slide's
            level 0. Any part may lie outside of the slide; it is white.
        mpp: um/px to read at; the shipped models have 0.972.
        slide_mpp: um/px of the slide's level 0, where it records none or a wrong one.

    Returns:
        RGB, (height, width, 3) uint8. A pixel has the same value whichever box it is read in.

    Raises:
        SlideError: the slide cannot be read, or is coarser than `mpp` by more than 10 %.
        ValueError: the width or the height is not above 0.
    """
    x, y, width, height = box
    if min(width, height) < 1:
        raise ValueError(f"box {box}: (x, y, width, height) needs width and height above 0")
    with Slide.open(slide, slide_mpp) as opened:
        return opened.plane(mpp).read(Box(y, x, y + height, x + width))
