"""A map that shows its slide's checkerboard, to measure where exports put its cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidescan.geometry import Box, Grid
from slidescan.maps.store import Heatmap
from slidescan.slides.slide import Slide

SIDE_L0 = 150
"""Side of a block of the checkerboard, level-0 px; no multiple of a cell."""

Floats = NDArray[np.float64]
Sampler = Callable[[Floats, Floats], Floats]
"""Values at x, y in level-0 px, by the geometry that an export states."""


def value(x_l0: Floats, y_l0: Floats) -> Floats:
    """The value of the block at a place: neighbours, also across corners, are 0.2 apart."""
    row, column = np.floor(y_l0 / SIDE_L0), np.floor(x_l0 / SIDE_L0)
    return (2 * row + column) % 5 / 5 + 0.1


@dataclass(frozen=True)
class Checkers:
    """A map whose cells have the value of the block under their centre; all cells are scanned."""

    map_path: Path
    slide_path: Path
    extent_l0: tuple[int, int]
    mpp: float
    cell_l0: float

    def error_l0(self, sample: Sampler, part: Box | None = None) -> float:
        """How far from its true place an edge between blocks lies at most, level-0 px.

        `part` is what the export covers, of the whole slide.
        """
        part = part or Box(0, 0, *self.extent_l0)
        # Not at the edge of the slide, where nothing lies beyond.
        y, x = np.mgrid[part.y0 + 2 : part.y1 - 2 : 3, part.x0 + 2 : part.x1 - 2 : 3] + 0.5
        wrong = np.abs(sample(x, y) - value(x, y)) > 0.05
        from_edge = [np.abs(each - SIDE_L0 * np.rint(each / SIDE_L0)) for each in (x, y)]
        return float(np.minimum(*from_edge)[wrong].max(initial=0))


def make(slide_path: Path, map_path: Path, stride: int, bounds: Box | None = None) -> Checkers:
    """Write the map of a slide, which records `bounds` (level-0 px) if they are given."""
    with Slide.open(slide_path) as slide:
        plane = slide.plane(0.972)
        extent, mpp, fingerprint = slide.extent_l0, slide.mpp, slide.fingerprint
    grid = Grid(plane.shape_px, stride)
    cell_l0 = stride * plane.mpp / mpp[0]
    rows, columns = ((np.arange(n) + 0.5) * cell_l0 for n in grid.shape)
    values = value(*np.meshgrid(columns, rows)).astype(np.float32)
    settings = {
        "slide": {"fingerprint": fingerprint, "mpp": list(mpp), "extent_l0": list(extent)},
        "model": {"name": "checkers", "sha256": "ab"},
    }
    provenance: dict[str, Any] = {"slide": slide_path.name}
    if bounds:
        provenance["bounds_l0"] = [bounds.x0, bounds.y0, *bounds.shape[::-1]]
    with Heatmap.create(
        map_path,
        grid=grid,
        mpp=plane.mpp,
        mask=np.ones(grid.shape, bool),
        settings=settings,
        provenance=provenance,
    ) as heatmap:
        for block in heatmap.blocks():
            heatmap.write(block, values[block.slices])
        heatmap.finish({})
    return Checkers(map_path, slide_path, extent, mpp[0], cell_l0)
