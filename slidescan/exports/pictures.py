"""Pictures of a map and its slide, of any size, drawn strip by strip."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidescan.errors import ConfigError
from slidescan.geometry import Box
from slidescan.maps.store import Heatmap
from slidescan.pictures.overlay import Look, Sheet, alone, colourise, sampled
from slidescan.protocols import WHITE, Bar
from slidescan.slides.overview import LEVEL_PX, assemble
from slidescan.slides.plane import Plane

Layout = Literal["side-by-side", "overlay", "map"]

MOST_PX = 2**28
"""Pixels of a picture: Pillow holds 4 bytes of each, so this is 1 GiB."""

STRIP_PX = 512
"""Rows that are drawn at once."""


@dataclass(frozen=True, slots=True)
class View:
    """A part of a slide at some resolution."""

    um_per_px: float
    box: Box
    """in pixels of the plane at `um_per_px`, whose origin is that of level 0"""
    mpp: tuple[float, float]
    """um/px of level 0, (y, x)"""

    @property
    def box_l0(self) -> tuple[float, float, float, float]:
        """(x, y, width, height) of exactly the pixels of `box`, in level-0 px."""
        y, x = (self.um_per_px / mpp for mpp in self.mpp)
        (height, width), box = self.box.shape, self.box
        return box.x0 * x, box.y0 * y, width * x, height * y

    @classmethod
    def of(
        cls, part_l0: Box, mpp: tuple[float, float], *, px: int, side: Literal["width", "longest"]
    ) -> View:
        """The view of a part of level 0 whose width, or longest side, has `px` pixels.

        The origin is rounded to a whole pixel of the view, the lower right edge upwards.
        """
        height, width = (n * um for n, um in zip(part_l0.shape, mpp, strict=True))
        um_per_px = (width if side == "width" else max(height, width)) / px
        y, x = round(part_l0.y0 * mpp[0] / um_per_px), round(part_l0.x0 * mpp[1] / um_per_px)
        # 100.0000001 px are 100.
        rows, columns = (max(1, math.ceil(um / um_per_px - 1e-6)) for um in (height, width))
        return cls(um_per_px, Box(y, x, y + rows, x + columns), mpp)


def check_view(view: View, layout: Layout, most_side_px: int | None = None) -> None:
    """Refuse a picture that no program would open. Raises ConfigError."""
    height, width = view.box.shape
    across = width * (2 if layout == "side-by-side" else 1)
    if height * across > MOST_PX:
        raise ConfigError(
            f"a picture of {across} x {height} px is too large (at most {MOST_PX // 2**20} Mpx); "
            "choose a smaller --size, --layout overlay, --crop, or export ome-tiff"
        )
    if most_side_px and max(height, across) > most_side_px:
        raise ConfigError(
            f"a picture of {across} x {height} px is too large for this format, whose sides have "
            f"at most {most_side_px} px; choose a smaller --size, or export png"
        )


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is drawn, and how."""

    view: View
    look: Look
    layout: Layout
    title: str | None
    """the line below; with None there is the picture only, without scale bar, key and outline"""
    transparent: bool = False
    """where a map alone without title draws nothing; else white"""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture, and whether any cell is drawn in it."""

    image: Image.Image
    any: bool


def draw(
    heatmap: Heatmap, plane: Plane | None, what: Drawing, threads: int, progress: Bar
) -> Drawn:
    """Draw a map, with its slide where `plane` gives it.

    plane: the slide at `what.view.um_per_px`; None draws the map alone.
    progress: is advanced by pixels of `what.view.box`.

    Raises SlidescanError where slide or map cannot be read.
    """
    shape, found = what.view.box.shape, False
    strips = _strips(heatmap, plane, what.view, threads, progress)
    if what.title is None:
        clear = what.transparent and plane is None
        image = Image.new("RGBA" if clear else "RGB", shape[::-1])
        for strip in strips:
            found |= bool(what.look.drawn(strip.probability).any())
            laid = alone(strip.probability, what.look) if clear else strip.laid(what.look, False)
            image.paste(Image.fromarray(laid), (0, strip.y))
        return Drawn(image, found)
    sheet = Sheet(shape, 2 if what.layout == "side-by-side" else 1, what.view.um_per_px)
    for strip in strips:
        found |= bool(what.look.drawn(strip.probability).any())
        pictures = [strip.laid(what.look, True)]
        if what.layout == "side-by-side":
            pictures.insert(0, strip.rgb)
        for index, pixels in enumerate(pictures):
            sheet.paste(index, strip.y, pixels)
    return Drawn(sheet.finish(what.title, what.look), found)


@dataclass(frozen=True, slots=True)
class _Strip:
    """Rows of a view."""

    y: int
    rgb: NDArray[np.uint8]
    """the slide, or white"""
    probability: NDArray[np.float32]
    above: NDArray[np.float32] | None
    """the row of probabilities over the first one"""

    def laid(self, look: Look, outline: bool) -> NDArray[np.uint8]:
        """The slide under the map, (h, w, 3)."""
        return colourise(self.rgb, self.probability, look, self.above, outline=outline)


def _strips(
    heatmap: Heatmap, plane: Plane | None, view: View, threads: int, progress: Bar
) -> Iterator[_Strip]:
    cells, box = _Cells(heatmap, view.um_per_px), view.box
    side = STRIP_PX if plane is None else max(16, int(LEVEL_PX / max(plane.ratio)))
    above = None
    for y in range(box.y0, box.y1, side):
        strip = Box(y, box.x0, min(y + side, box.y1), box.x1)
        if plane is None:
            rgb = np.full((*strip.shape, 3), WHITE, np.uint8)
            progress.update(strip.area)
        else:
            rgb = assemble(plane, strip, side, threads, lambda part: progress.update(part.area))
        probability = cells.under(strip)
        yield _Strip(y - box.y0, rgb, probability, above)
        above = probability[-1]


class _Cells:
    """The cells of a map under the pixels of a view."""

    def __init__(self, heatmap: Heatmap, um_per_px: float) -> None:
        self._heatmap, self._level = heatmap, 0
        cell_um = heatmap.mpp * heatmap.grid.stride
        # The coarsest level that still has a cell for every pixel; an unfinished map has one level.
        levels = len(heatmap.shapes) if heatmap.complete else 1
        while self._level + 1 < levels and cell_um * 2 <= um_per_px:
            self._level, cell_um = self._level + 1, cell_um * 2
        self._step = um_per_px / cell_um

    def under(self, box: Box) -> NDArray[np.float32]:
        """The probability at each pixel of `box`, (H, W); read from the map as needed."""
        rows, columns = sampled(self._heatmap.shapes[self._level], box, self._step)
        read = Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
        values = self._heatmap.read(read, self._level)
        return values[np.ix_(rows - read.y0, columns - read.x0)]
