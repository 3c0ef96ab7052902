"""Regions of a map: connected cells above a threshold, measured and outlined.

They are candidates for lesions, found without annotations. A map is wider than tumour: a cell looks
at 32 x 32 px, so a perfect map reaches up to 16 px, about 16 um, beyond it on every side.

A map of 10,000 x 10,000 cells is labelled whole, 4 bytes a cell. Its values are read block by
block, twice, and only those above the threshold are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray

from slidescan.errors import ConfigError
from slidescan.maps import components
from slidescan.maps.contours import NOTHING, outlines, relief
from slidescan.maps.store import Heatmap
from slidescan.protocols import OpenBar, no_bar

SizeClass = Literal["macro", "micro", "itc"]

CLASSES_UM: tuple[tuple[float, SizeClass], ...] = ((2000, "macro"), (200, "micro"))
"""A region whose major axis is longer has the class (sizes of the AJCC, 8th edition)."""

MIN_AREA_UM2 = 900.0
"""A perfect map marks at least 32 x 32 px of 0.972 um, 967 um2, for a single tumour pixel."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a region is: connected cells (8 neighbours) of at least a probability and an area."""

    threshold: float
    """P(tumour); a cell with exactly this value counts."""
    low: float | None = None
    """Hysteresis: regions consist of cells from `low` up, at least one of them from `threshold`"""
    min_area_um2: float = MIN_AREA_UM2
    """Smaller regions are left out."""

    def __post_init__(self) -> None:
        """Raises ConfigError at a value out of range."""
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"threshold {self.threshold}: give a probability from 0 to 1")
        if self.low is not None and not 0 < self.low <= self.threshold:
            raise ConfigError(
                f"low threshold {self.low}: give a probability from 0 to {self.threshold:g}, the "
                "threshold"
            )
        if not 0 <= self.min_area_um2 < np.inf:
            raise ConfigError(f"smallest area {self.min_area_um2} um2: give 0 or more")

    @property
    def floor(self) -> float:
        """The least value of a cell of a region."""
        return self.threshold if self.low is None else self.low


@dataclass(frozen=True, slots=True)
class Region:
    """Connected cells above a threshold. Points are (x, y), boxes (x, y, width, height)."""

    number: int
    """from 1, the hottest first"""
    outline: shapely.Polygon
    """(x, y) in level-0 px, with holes; see `slidescan.maps.contours`"""
    area_um2: float
    """of its cells"""
    highest: float
    """P(tumour), as the mean and the 95th percentile of its cells"""
    mean: float
    p95: float
    centroid_l0: tuple[float, float]
    """mean of the centres of its cells; may lie outside of a crescent"""
    centroid_um: tuple[float, float]
    box_l0: tuple[float, float, float, float]
    """around its cells"""
    box_um: tuple[float, float, float, float]
    major_axis_um: float
    """of the ellipse with the same second moments, as `regionprops` of MATLAB has it: unlike that
    of scikit-image, it takes cells as squares, so that one cell has a length"""
    size_class: SizeClass
    """by the major axis; a measurement of the region, not a diagnosis"""


def find_regions(heatmap: Heatmap, rule: Rule, bar: OpenBar = no_bar) -> list[Region]:
    """Find the regions of a map, hottest first; of equally hot ones the largest first.

    Cells that were not scanned (yet) are in no region.

    Raises MapError where the map cannot be read.
    """
    rows, columns = heatmap.grid.shape
    cell_um = heatmap.mpp * heatmap.grid.stride
    with bar("finding regions", 3 * rows + 1, "row") as progress:
        padded = np.full((rows + 2, columns + 2), NOTHING)
        _fill(padded[1:-1, 1:-1], heatmap, rule.floor, progress.update)
        labels, sizes = components.label(padded[1:-1, 1:-1] > 0, rule.min_area_um2 / cell_um**2)
        found = components.measure(heatmap, labels, sizes, progress.update)
        hot = found.highest >= np.float32(rule.threshold)
        components.keep(labels, hot)
        components.clear(padded, labels)
        shapes = outlines(padded, labels, progress.update)
    return _regions(heatmap, found[hot], shapes)


def _fill(
    relief_of: NDArray[np.int8], heatmap: Heatmap, floor: float, advance: Callable[[int], object]
) -> None:
    """Set the relief of every block that has values."""
    scanned = heatmap.scanned
    for block in heatmap.blocks():
        if scanned[block.slices].any():
            relief_of[block.slices] = relief(heatmap.read(block), floor)
        if block.x1 == scanned.shape[1]:
            advance(block.shape[0])


def _regions(
    heatmap: Heatmap, found: components.Measures, shapes: list[shapely.Polygon]
) -> list[Region]:
    """Sort, number and convert from cells to um and level-0 px."""
    cell_um = heatmap.mpp * heatmap.grid.stride
    y_mpp, x_mpp = heatmap.settings["slide"]["mpp"]
    pitch = np.array((cell_um / x_mpp, cell_um / y_mpp))  # level-0 px a cell, (x, y)
    order = np.lexsort((-found.cells, -found.highest))
    found = found[order]
    outlined = shapely.transform([shapes[i] for i in order], lambda points: points * pitch)
    centre = found.centre[:, ::-1] + 0.5
    corner = found.least[:, ::-1]
    box = np.hstack([corner, found.most[:, ::-1] + 1 - corner])
    axes = found.major_axis * cell_um
    table = zip(
        outlined.tolist(),
        (found.cells * cell_um**2).tolist(),
        *(each.tolist() for each in (found.highest, found.mean, found.p95)),
        *(map(tuple, (centre * scale).tolist()) for scale in (pitch, cell_um)),
        *(map(tuple, (box * scale).tolist()) for scale in (np.tile(pitch, 2), cell_um)),
        axes.tolist(),
        map(_size_class, axes),
        strict=True,
    )
    return [Region(number, *row) for number, row in enumerate(table, start=1)]


def _size_class(major_axis_um: float) -> SizeClass:
    return next((name for least, name in CLASSES_UM if major_axis_um > least), "itc")
