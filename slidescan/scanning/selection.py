"""Which cells of a slide are scanned: those that see tissue, found on an overview, or all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import SlideError
from slidescan.geometry import Box, Grid
from slidescan.protocols import OpenBar
from slidescan.slides import tissue
from slidescan.slides.overview import read_whole
from slidescan.slides.plane import Plane
from slidescan.slides.slide import Slide

Gaps: TypeAlias = list[tuple[Box, NDArray[np.bool_]]]
"""Parts of a plane, and which of their pixels are missing."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The cells to scan, and what the overview showed."""

    mask: NDArray[np.bool_]
    """(rows, columns)"""
    he_like: float | None = None
    """`tissue.he_like`; None where tissue was not looked for or there is none"""
    tissue_mm2: float | None = None
    """area of the cells that hold tissue; None where it was not looked for"""


@dataclass(frozen=True, slots=True)
class Selector:
    """Selects the cells inside a slide's bounds that see tissue, or without `tissue_mask` all."""

    tissue_mask: bool
    threads: int
    bar: OpenBar

    def select(self, plane: Plane, grid: Grid) -> Selection:
        """Raises SlideError where the overview cannot be read."""
        stride, bounds = grid.stride, plane.bounds
        inside = Box(
            bounds.y0 // stride,
            bounds.x0 // stride,
            -(-bounds.y1 // stride),
            -(-bounds.x1 // stride),
        ).clip(grid.cells)
        mask = np.zeros(grid.shape, bool)
        if not self.tissue_mask:
            mask[inside.slices] = True
            return Selection(mask)
        # Every cell whose field of view touches tissue.
        reach = -(-(grid.field_px - stride) // (2 * stride))
        held, he_like = self._find_tissue(plane, stride, inside)
        mask[inside.slices] = tissue.grow(held, reach)
        area_mm2 = int(np.count_nonzero(held)) * (plane.mpp * stride / 1000) ** 2
        return Selection(mask, he_like, round(area_mm2, 4))

    def _find_tissue(
        self, plane: Plane, stride: int, cells: Box
    ) -> tuple[NDArray[np.bool_], float | None]:
        """Find the `cells` that hold tissue on an overview of the slide, and its `he_like`.

        A cell is one pixel of the overview, or several if cells are large: the smallest fragment
        that must be found covers at least one whole pixel, wherever it lies. Where pixels of the
        overview are missing there may be tissue.
        """
        side = math.ceil(plane.mpp * stride / (tissue.FRAGMENT_UM / 2))
        box = Box(cells.y0 * side, cells.x0 * side, cells.y1 * side, cells.x1 * side)
        overview_mpp = plane.mpp * stride / side
        rgb, gaps = self._read_overview(plane.slide, overview_mpp, box)
        found = tissue.tissue_mask(rgb, um_per_px=overview_mpp)
        he_like = tissue.he_like(rgb, found)
        for part, missing in gaps:
            found[part.shift(-box.y0, -box.x0).slices] |= missing
        rows, columns = cells.shape
        pixels = found.reshape(rows, side, columns, side)
        held: NDArray[np.bool_] = np.logical_or.reduce(pixels, axis=(1, 3))
        return held, he_like

    def _read_overview(self, slide: Slide, mpp: float, box: Box) -> tuple[NDArray[np.uint8], Gaps]:
        """Read an overview and its gaps. Raises SlideError where level 0 cannot be read either."""
        gaps: Gaps = []
        keep = partial(_keep_gap, gaps)
        overview = slide.plane(mpp)
        try:
            rgb = read_whole(overview, box, "finding tissue", self.threads, self.bar, keep)
        except SlideError as error:
            raise SlideError(
                f"{error}; --damaged skip leaves out the cells that see the damage, "
                "--no-tissue-mask scans without looking for tissue"
            ) from error
        return rgb, gaps


def _keep_gap(gaps: Gaps, part: Box, missing: NDArray[np.bool_]) -> None:
    gaps.append((part, missing))
