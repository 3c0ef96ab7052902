"""Outlines as JSON: rings of (x, y) in level-0 px."""

from __future__ import annotations

import numpy as np
import shapely

Rings = list[list[list[float]]]


def rings(polygon: shapely.Polygon) -> Rings:
    """The shell and the holes of a polygon, each a closed ring, to a hundredth of a pixel."""
    return [
        np.round(shapely.get_coordinates(ring), 2).tolist()
        for ring in (polygon.exterior, *polygon.interiors)
    ]
