"""The pictures of a report: the slide, the map over it, its tissue, and crops of regions.

They are JPEG, inside the page as data URIs.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

from slidescan.geometry import LABEL_PX, Box
from slidescan.maps.regions import Region
from slidescan.maps.store import Heatmap
from slidescan.pictures.overlay import colourise, spread
from slidescan.protocols import OpenBar
from slidescan.slides.overview import read_whole
from slidescan.slides.slide import Slide

LONGEST_PX = 900
"""Longest side of the slide in a report: sharp across half of a page of A4 at 250 dpi."""

THUMBNAIL_PX = 160
"""Longest side in the table of a cohort."""

CROP_UM = 128.0
"""Side of a crop: the 93 um that a cell's value depends on, and a little around them."""

MOST_CROP_PX = 640
"""Slides finer than 0.2 um/px give no larger crops."""

QUALITY = 80


@dataclass(frozen=True, slots=True)
class Overview:
    """The scanned part of a slide as one picture, and the values of its pixels' cells."""

    box: Box
    """the part of the plane, px of `um_per_px`"""
    um_per_px: float
    rgb: NDArray[np.uint8]
    """(H, W, 3)"""
    values: NDArray[np.float32]
    """(H, W), NaN where nothing was scanned"""
    selected: NDArray[np.bool_]
    """(H, W), which pixels lie in cells that were selected for scanning"""
    gaps: NDArray[np.bool_]
    """(H, W), those that could not be scanned"""

    def slide(self) -> Image.Image:
        """The slide alone."""
        return Image.fromarray(self.rgb)

    def overlay(self) -> Image.Image:
        """The slide under its map."""
        return Image.fromarray(colourise(self.rgb, self.values))

    def tissue(self) -> Image.Image:
        """The slide with what was not selected faded, and gaps in orange."""
        faded = (self.rgb.astype(np.uint16) + 3 * 215) // 4
        shown = np.where(self.selected[..., None], self.rgb, faded.astype(np.uint8))
        shown[self.gaps] = (213, 94, 0)
        return Image.fromarray(shown)


def read_overview(heatmap: Heatmap, slide: Slide, threads: int, bar: OpenBar) -> Overview:
    """Read the slide and the map at the size of a picture. Raises SlideError and MapError."""
    # MIRAX slides are mostly empty outside of their bounds. No finer than the scan.
    sides_um = np.multiply(slide.bounds_l0.shape, slide.mpp)
    um_per_px = max(heatmap.mpp, float(sides_um.max()) / LONGEST_PX)
    plane = slide.plane(um_per_px)
    box = plane.bounds.clip(Box(0, 0, *plane.shape_px))
    rgb = read_whole(plane, box, "drawing", threads, bar)
    cell_um = heatmap.mpp * heatmap.grid.stride
    level = 0
    # The coarsest level that has a cell for every pixel. An unfinished map has only the finest.
    while heatmap.complete and level + 1 < len(heatmap.shapes):
        if cell_um * 2 ** (level + 1) > um_per_px:
            break
        level += 1
    values = heatmap.read(Box(0, 0, *heatmap.shapes[level]), level)
    step = um_per_px / cell_um
    selected, gaps = _spread_mask(heatmap.mask, box, step), heatmap.gaps
    return Overview(
        box,
        um_per_px,
        rgb,
        spread(values, box, step / 2**level),
        selected,
        np.zeros_like(selected) if gaps is None else _spread_mask(gaps, box, step),
    )


def _spread_mask(mask: NDArray[np.bool_], box: Box, step: float) -> NDArray[np.bool_]:
    """`spread`, which copies values of any type."""
    shown: Any = spread(cast("Any", mask), box, step)
    return cast("NDArray[np.bool_]", shown)


@dataclass(frozen=True, slots=True)
class Crop:
    """The surroundings of a region's hottest cell."""

    uri: str
    """data URI"""
    side_px: int
    mark: tuple[float, float]
    """start and size of the label region's square, in percent of the side"""
    centre_l0: tuple[int, int]
    """(x, y)"""


def crops(heatmap: Heatmap, slide: Slide, regions: Sequence[Region]) -> Iterator[Crop]:
    """Read a crop of each region in the slide's own pixels. Raises SlideError and MapError."""
    finest = slide.plane(max(slide.mpp))
    side = min(MOST_CROP_PX, round(CROP_UM / finest.mpp))
    label = 100 * LABEL_PX * heatmap.mpp / (side * finest.mpp)
    for region in regions:
        x_um, y_um = hottest_um(heatmap, region)
        top, left = (round(at / finest.mpp - side / 2) for at in (y_um, x_um))
        pixels = finest.read(Box(top, left, top + side, left + side))
        centre = round(x_um / slide.mpp[1]), round(y_um / slide.mpp[0])
        yield Crop(jpeg(Image.fromarray(pixels)), side, (50 - label / 2, label), centre)


def hottest_um(heatmap: Heatmap, region: Region) -> tuple[float, float]:
    """Return the centre of a region's highest cell, (x, y) in um."""
    cell_um = heatmap.mpp * heatmap.grid.stride
    x, y, width, height = region.box_um
    cells = Box(
        round(y / cell_um), round(x / cell_um),
        round((y + height) / cell_um), round((x + width) / cell_um),
    ).clip(heatmap.grid.cells)  # fmt: skip
    values = heatmap.read(cells)
    rows, columns = np.nonzero(values == np.float32(region.highest))
    y_um, x_um = ((rows + cells.y0 + 0.5) * cell_um, (columns + cells.x0 + 0.5) * cell_um)
    # The box may hold an equally hot cell of a neighbour.
    y_mpp, x_mpp = heatmap.settings["slide"]["mpp"]
    inside = shapely.contains_xy(region.outline, x_um / x_mpp, y_um / y_mpp)
    first = int(inside.argmax())
    return float(x_um[first]), float(y_um[first])


def jpeg(image: Image.Image, longest_px: int | None = None) -> str:
    """Encode an image as a data URI, reduced to a longest side."""
    if longest_px:
        image = image.copy()
        image.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"


def colour_key() -> str:
    """The colours of 0 to 1 on white, as a data URI of 256 x 1 px."""
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    white = np.full((1, 256, 3), 255, np.uint8)
    file = BytesIO()
    Image.fromarray(colourise(white, ramp)).save(file, "PNG")
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
