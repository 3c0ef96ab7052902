"""Outlines of regions of cells: iso-lines that keep every cell's centre on its side.

An outline runs where the map, interpolated between the centres of cells, crosses the threshold. It
keeps a quarter of a cell from every centre, and simplifying moves it by less than that leaves at
corners. So a polygon drawn back, a cell being set where its centre lies inside, gives the cells
that it came from, and its vertices are less than half a cell from the cells' own borders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import shapely
from numpy.typing import NDArray

BAND_ROWS = 256
"""Contours are found in bands of this many rows: skimage copies what it gets as float64."""

STEP = 42
"""`relief` of a value NEAR from the threshold. 3 * STEP is the most that int8 holds."""

NEAR = 0.1
"""Differences from the threshold are taken as at least this and at most three times this, so that
an iso-line divides the way between two centres between 1:3 and 3:1."""

NOTHING = np.int8(-3 * STEP)
"""`relief` beyond the map and where nothing was scanned: no outline leaves the scanned cells."""

TOLERANCE = 0.17
"""Cells. An iso-line that cuts the corner around a centre passes it at 0.25 / sqrt(2) = 0.177."""


def relief(values: NDArray[np.float32], threshold: float) -> NDArray[np.int8]:
    """Height of each cell over the threshold, positive from the threshold up; NaN is below it."""
    steps = np.clip(np.abs(values - np.float32(threshold)) / NEAR, 1, 3) * STEP
    signed = np.where(values >= threshold, steps, -steps)
    return np.where(np.isnan(values), NOTHING, np.rint(signed)).astype(np.int8)


def outlines(
    padded: NDArray[np.int8], labels: NDArray[np.int32], advance: Callable[[int], object]
) -> list[shapely.Polygon]:
    """Return the outline of each label, with its holes, in cells: (0.5, 0.5) is a first centre.

    Args:
        padded: the relief with a frame of NOTHING, (rows + 2, columns + 2), positive in the cells
            of a label and nowhere else.
        labels: connected regions (8 neighbours) numbered from 1, (rows, columns); 0 elsewhere.
        advance: is called with the number of rows that were followed.
    """
    rings = list(_rings(padded, advance))
    firsts = np.array([ring[0] for ring in rings]).reshape(-1, 2)
    owners = np.zeros(len(rings), np.int64)
    # A vertex lies between a centre inside and one outside. Those of the frame are clipped onto
    # the one inside.
    for end in (np.floor(firsts), np.ceil(firsts)):
        row, column = np.clip(end.astype(int) - 1, 0, np.array(labels.shape) - 1).T
        owners = np.maximum(owners, labels[row, column])
    shells: dict[int, NDArray[np.float64]] = {}
    holes: dict[int, list[NDArray[np.float64]]] = {}
    for owner, ring in zip(owners.tolist(), _simplified(rings), strict=True):
        if _is_shell(ring):
            shells[owner] = ring
        else:
            holes.setdefault(owner, []).append(ring)
    return [shapely.Polygon(shells[each], holes.get(each)) for each in sorted(shells)]


def _rings(
    padded: NDArray[np.int8], advance: Callable[[int], object]
) -> Iterator[NDArray[np.float64]]:
    """Yield every closed iso-line at 0, (n, 2) of (row, column), the first vertex again last."""
    from skimage.measure import find_contours

    cut = []
    for top in range(0, len(padded) - 1, BAND_ROWS):
        band = padded[top : top + BAND_ROWS + 1]  # its last row is the next band's first
        if (band > 0).any():
            # Cells that touch by a corner belong together, as in the labels.
            for line in find_contours(band, 0, fully_connected="high"):  # type: ignore[no-untyped-call]
                line[:, 0] += top
                if np.array_equal(line[0], line[-1]):
                    yield line
                else:
                    cut.append(shapely.LineString(line))
        advance(len(band) - 1)
    # The pieces of a line end at the same numbers on both sides of a cut: it is a row of centres.
    if cut:
        merged = shapely.line_merge(shapely.MultiLineString(cut), directed=True)
        for part in shapely.get_parts(merged):
            yield shapely.get_coordinates(part)


def _simplified(rings: list[NDArray[np.float64]]) -> Iterator[NDArray[np.float64]]:
    """Yield the rings with fewer vertices, (n, 2) of (x, y) in cells of the map."""
    # Each by itself, in linear time: where two lines come near each other, at a diagonal, they are
    # 0.354 cells apart and move by 0.17 each, so they cannot cross.
    for ring in rings:
        line = shapely.LineString(ring[:, ::-1] - 0.5)
        yield shapely.get_coordinates(shapely.simplify(line, TOLERANCE, preserve_topology=False))


def _is_shell(corners: NDArray[np.float64]) -> bool:
    """Whether a ring runs around cells of a region; skimage keeps the low side on its left."""
    x, y = corners.T
    return bool((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0)
