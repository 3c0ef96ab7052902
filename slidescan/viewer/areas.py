"""Regions, tissue and annotations as JSON: rings of (x, y) in level-0 px, shells before holes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from slidescan.annotations.reading import load_annotations
from slidescan.maps import components
from slidescan.maps.contours import NOTHING, outlines
from slidescan.maps.ngff import touched
from slidescan.maps.regions import Region, Rule, find_regions
from slidescan.maps.store import Heatmap

MOST_REGIONS = 2000
"""The hottest ones are shown: a low threshold finds more than a page can list."""

TISSUE_CELLS = 1024
"""Tissue is outlined on the finest level with at most this many cells a side."""

TISSUE_LEAST = 4
"""Cells of that level; smaller pieces of tissue are not outlined."""

Rings = list[list[list[float]]]


def regions_of(heatmap: Heatmap, threshold: float) -> dict[str, Any]:
    """The regions of a map, hottest first.

    Raises:
        ConfigError: the threshold is no probability above 0.
        MapError: the map cannot be read.
    """
    found = find_regions(heatmap, Rule(threshold))
    return {
        "threshold": threshold,
        "found": len(found),
        "regions": [_region(each) for each in found[:MOST_REGIONS]],
    }


def _region(region: Region) -> dict[str, Any]:
    return {
        "number": region.number,
        "box": region.box_l0,
        "centroid": region.centroid_l0,
        "area_mm2": region.area_um2 / 1e6,
        "highest": region.highest,
        "mean": region.mean,
        "major_axis_um": region.major_axis_um,
        "size_class": region.size_class,
        "outline": rings(region.outline),
    }


def tissue_of(heatmap: Heatmap) -> list[Rings]:
    """The outlines of the cells that were selected for scanning."""
    mask, step = heatmap.mask, 1
    while max(mask.shape) > TISSUE_CELLS:
        mask, step = touched(mask), step * 2
    labels, _ = components.label(mask, TISSUE_LEAST)
    relief: NDArray[np.int8] = np.pad(
        np.where(labels > 0, -NOTHING, NOTHING), 1, constant_values=NOTHING
    )
    mpp_y, mpp_x = heatmap.settings["slide"]["mpp"]
    cell_um = heatmap.mpp * heatmap.grid.stride * step
    pitch = np.array((cell_um / mpp_x, cell_um / mpp_y))
    shapes = outlines(relief, labels, lambda rows: None)
    return [rings(shapely.transform(shape, lambda points: points * pitch)) for shape in shapes]


def annotations_of(path: Path, size_l0: tuple[int, int]) -> dict[str, Any]:
    """The regions of a file of annotations; `size_l0` is (width, height) of the slide.

    Raises AnnotationError.
    """
    found = load_annotations(path, size_l0)
    return {
        "name": path.name,
        "outlines": [
            {"class": region.label, "name": region.name, "colour": None, "rings": rings(part)}
            for region in found.regions
            for part in shapely.get_parts(region.polygon)
        ],
        "warnings": found.problems,
    }


def rings(polygon: shapely.Polygon) -> Rings:
    """The shell and the holes of a polygon, each a closed ring, to a hundredth of a pixel."""
    return [
        np.round(shapely.get_coordinates(ring), 2).tolist()
        for ring in (polygon.exterior, *polygon.interiors)
    ]
