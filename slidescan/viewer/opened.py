"""One open slide as the page sees it: its description and its pictures as JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidescan.errors import SlideError
from slidescan.geometry import Box
from slidescan.protocols import WHITE
from slidescan.slides.slide import Slide
from slidescan.slides.zoom import TILE_PX, Zoom, read_reduced, source_level
from slidescan.viewer.cache import Cache

QUALITY = 85
"""Of the JPEG tiles: most slides are JPEG of 70 to 90 themselves."""

PICTURES_BYTES = 64 * 2**20
"""Encoded tiles of all slides that are kept."""

PIXELS_BYTES = 48 * 2**20
"""Tiles before encoding that are kept: coarser ones are made from them, where the slide has no
level of its own for these."""

THUMBNAIL_PX = 256
"""Longest side of a thumbnail."""

UNKNOWN_MPP = 1.0
"""Stands for the resolution of a slide that records none, which can be viewed all the same."""


class Kept:
    """Tiles of all slides that are kept, encoded and not."""

    def __init__(self) -> None:
        self.pictures = Cache[bytes](PICTURES_BYTES, len)
        self.pixels = Cache[NDArray[np.uint8]](PIXELS_BYTES, lambda pixels: pixels.nbytes)


@dataclass(frozen=True, slots=True)
class Opened:
    """A slide that is open, and whether its resolution is known."""

    key: str
    """Of its pictures in the cache."""
    slide: Slide
    zoom: Zoom
    measured: bool
    warnings: tuple[str, ...]
    kept: Kept

    @classmethod
    def open(cls, key: str, path: Path, mpp: float | None, kept: Kept) -> Opened:
        """Open a slide; one that records no resolution opens as well, with a warning.

        Raises SlideError: no such file, or no slide.
        """
        try:
            slide = Slide.open(path, mpp)
            measured, warnings = True, slide.warnings
        except SlideError as error:
            if mpp is not None:
                raise
            try:
                slide = Slide.open(path, UNKNOWN_MPP)
            except SlideError:
                raise error from None
            measured, warnings = False, (str(error),)
        return cls(key, slide, Zoom(slide.extent_l0), measured, warnings, kept)

    def describe(self) -> dict[str, Any]:
        """Extent, levels and resolution, as the page expects them."""
        slide, (height, width) = self.slide, self.slide.extent_l0
        bounds = slide.bounds_l0
        whole = bounds == Box(0, 0, height, width)
        return {
            "width": width,
            "height": height,
            "bounds": None if whole else [bounds.x0, bounds.y0, *bounds.shape[::-1]],
            "mpp": list(slide.mpp) if self.measured else None,
            "objective": slide.objective_power,
            "tile_px": TILE_PX,
            "levels": [{"width": w, "height": h} for h, w in self.zoom.levels],
        }

    def tile(self, level: int, column: int, row: int) -> bytes | None:
        """A tile as JPEG; None where there is none. Raises SlideError where it cannot be read."""
        box = self.zoom.tile(level, column, row)
        if box is None:
            return None
        return self.kept.pictures.get(
            (self.key, level, column, row), lambda: jpeg(self._pixels(level, box))
        )

    def _pixels(self, level: int, box: Box) -> NDArray[np.uint8]:
        """RGB of a tile: from the file, or from the four tiles of the next level.

        These are read from the same level of the file, and will be asked for when a user zooms in.
        """
        slide, step = self.slide, self.zoom.downsample(level)
        if step == 1 or source_level(slide, step) != source_level(slide, step // 2):
            return read_reduced(slide, step, box)
        whole = Box(0, 0, *self.zoom.levels[level + 1])
        under = Box(2 * box.y0, 2 * box.x0, 2 * box.y1, 2 * box.x1)
        finer = np.full((*under.shape, 3), WHITE, np.uint8)
        for part in under.clip(whole).split(TILE_PX):
            finer[part.shift(-under.y0, -under.x0).slices] = self.kept.pixels.get(
                (self.key, level + 1, part), partial(self._pixels, level + 1, part)
            )
        return np.asarray(Image.fromarray(finer).reduce(2))

    def thumbnail(self) -> bytes:
        """The scanned part of the slide, at most `THUMBNAIL_PX` a side, as JPEG.

        Raises SlideError where it cannot be read.
        """
        return self.kept.pictures.get((self.key, "thumbnail"), self._thumbnail)

    def _thumbnail(self) -> bytes:
        bounds, step = self.slide.bounds_l0, 1
        while max(bounds.shape) > 2 * THUMBNAIL_PX * step:
            step *= 2
        box = Box(
            bounds.y0 // step, bounds.x0 // step, -(-bounds.y1 // step), -(-bounds.x1 // step)
        )
        image = Image.fromarray(read_reduced(self.slide, step, box))
        image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        return jpeg(np.asarray(image))


def jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """Encode (H, W, 3) uint8."""
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
