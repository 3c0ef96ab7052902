"""A slide as square tiles of powers of two, as viewers in a browser ask for them.

A pixel of zoom level n covers exactly 2**k x 2**k level-0 px, whatever levels the file has. Nothing
overlaps, and tiles at the right and bottom edges are cut. Pairs are (y, x).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidescan.geometry import Box
from slidescan.slides.properties import Level
from slidescan.slides.resampling import Taps, resample
from slidescan.slides.slide import COARSER, SAME_GRID, Slide

TILE_PX = 512
"""Side of a tile."""

READ_PX = 2048
"""Side of the largest read of a tile in pixels of the slide's level, which bounds the memory."""


@dataclass(frozen=True, slots=True)
class Zoom:
    """The zoom levels of a slide of `extent_l0` (height, width), coarsest first.

    The coarsest fits into one tile, and each level has half as many pixels as the next, rounded up.

    >>> Zoom((1000, 1500)).levels
    [(250, 375), (500, 750), (1000, 1500)]
    >>> Zoom((1000, 1500)).tile(2, column=2, row=1)
    Box(y0=512, x0=1024, y1=1000, x1=1500)
    """

    extent_l0: tuple[int, int]

    @property
    def levels(self) -> list[tuple[int, int]]:
        """Pixels (height, width) of each level."""
        height, width = self.extent_l0
        halvings = max(0, math.ceil(math.log2(max(height, width) / TILE_PX)))
        return [(-(-height >> k), -(-width >> k)) for k in range(halvings, -1, -1)]

    def downsample(self, level: int) -> int:
        """Level-0 px along the side of a pixel of a level."""
        return 1 << (len(self.levels) - 1 - level)

    def tile(self, level: int, column: int, row: int) -> Box | None:
        """The pixels of a tile, in the frame of its level; None where there is no such tile."""
        levels = self.levels
        if not 0 <= level < len(levels) or min(column, row) < 0:
            return None
        y, x = row * TILE_PX, column * TILE_PX
        box = Box(y, x, y + TILE_PX, x + TILE_PX).clip(Box(0, 0, *levels[level]))
        return box if box.area else None


def read_reduced(slide: Slide, downsample: int, box: Box) -> NDArray[np.uint8]:
    """RGB of `box` in pixels of `downsample` level-0 px a side, (H, W, 3) uint8.

    White outside the slide and where pixels are missing. Safe to call from several threads.

    Raises SlideError where the slide cannot be read.
    """
    level = source_level(slide, downsample)
    ratios = downsample / level.downsample[0], downsample / level.downsample[1]
    side = max(1, int(READ_PX / max(ratios)))
    if max(box.shape) <= side:
        return _read(slide, level, ratios, box)
    out = np.empty((*box.shape, 3), np.uint8)
    for part in box.split(side):
        out[part.shift(-box.y0, -box.x0).slices] = _read(slide, level, ratios, part)
    return out


def source_level(slide: Slide, downsample: int) -> Level:
    """The coarsest level of the slide that holds enough detail; level 0 if none does."""
    fine = [level for level in slide.levels if max(level.downsample) <= COARSER * downsample]
    return fine[-1] if fine else slide.levels[0]


def _read(slide: Slide, level: Level, ratios: tuple[float, float], box: Box) -> NDArray[np.uint8]:
    """Read and resample a box; `ratios` are level px for each of its pixels."""
    whole = tuple(round(ratio) for ratio in ratios)
    if all(math.isclose(a, b, rel_tol=SAME_GRID) for a, b in zip(ratios, whole, strict=True)):
        # The mean of whole squares needs no pixel around the box and is faster than a filter.
        dy, dx = whole
        source = Box(box.y0 * dy, box.x0 * dx, box.y1 * dy, box.x1 * dx)
        pixels = slide.read_level(level.index, source)
        return pixels if whole == (1, 1) else np.asarray(Image.fromarray(pixels).reduce((dx, dy)))
    rows, columns = Taps.of(box.y0, box.y1, ratios[0]), Taps.of(box.x0, box.x1, ratios[1])
    support = Box(rows.start_src, columns.start_src, rows.stop_src, columns.stop_src)
    return resample(slide.read_level(level.index, support), rows, columns)
