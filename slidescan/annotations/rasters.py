"""Rasterise polygons: a cell is set where its centre lies in a polygon.

The method is scan lines with the even-odd rule over shell and holes together. A centre exactly on
an edge is inside at the left and upper sides of an area and outside at the others, so that areas
with a common edge have no common cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

BLOCK_ROWS = 256


def rasterise(
    polygons: Sequence[shapely.Polygon | shapely.MultiPolygon],
    shape: tuple[int, int],
    pitch_l0: tuple[float, float],
    origin_l0: tuple[float, float] = (0, 0),
) -> NDArray[np.bool_]:
    """Return the mask (rows, columns) of the union of valid polygons in level-0 px, with holes.

    pitch_l0: level-0 px per cell, (x, y). origin_l0: corner of cell (0, 0), (x, y).
    """
    mask = np.zeros(shape, bool)
    edges = _Edges.of(polygons, pitch_l0, origin_l0)
    for top in range(0, shape[0], BLOCK_ROWS):
        edges.fill(mask[top : top + BLOCK_ROWS], top)
    return mask


def raster_blocks(
    polygons: Sequence[shapely.Polygon | shapely.MultiPolygon],
    shape: tuple[int, int],
    pitch_l0: tuple[float, float],
    origin_l0: tuple[float, float] = (0, 0),
    rows: int = BLOCK_ROWS,
) -> Iterator[NDArray[np.bool_]]:
    """Yield the same mask in blocks of `rows` rows from the top; the last block may have fewer.

    Cells do not depend on `rows`. Memory depends on the block, not on the mask.
    """
    edges = _Edges.of(polygons, pitch_l0, origin_l0)
    height, width = shape
    for top in range(0, height, rows):
        block = np.zeros((min(rows, height - top), width), bool)
        edges.fill(block, top)
        yield block


@dataclass(frozen=True, slots=True)
class _Edges:
    """Edges that cross the centre line of a row, in cells: the centre of (r, c) is at (c, r).

    Edge i, of polygon owner[i], goes down from (x[i], y[i]) by `slope[i]` columns a row, and
    crosses the rows [first[i], stop[i]).
    """

    owner: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    slope: NDArray[np.float64]
    first: NDArray[np.int64]
    stop: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        polygons: Sequence[shapely.Polygon | shapely.MultiPolygon],
        pitch_l0: tuple[float, float],
        origin_l0: tuple[float, float],
    ) -> _Edges:
        """Collect the edges of all rings of all polygons."""
        parts = shapely.get_parts(np.asarray(polygons, object))
        rings, of_part = shapely.get_rings(parts, return_index=True)
        corners, of_ring = shapely.get_coordinates(rings, return_index=True)
        corners = (corners - origin_l0) / pitch_l0 - 0.5
        same = of_ring[1:] == of_ring[:-1]
        ends = np.stack([corners[:-1][same], corners[1:][same]])
        owner = of_part[of_ring[:-1][same]]
        down = ends[0, :, 1] <= ends[1, :, 1]
        (x, y), (x1, y1) = (np.where(down, a.T, b.T) for a, b in (ends, ends[::-1]))
        # Half-open: of the two edges at a corner on a centre line, one crosses it.
        first, stop = np.ceil(y).astype(np.int64), np.ceil(y1).astype(np.int64)
        crossing = first < stop
        slope = np.divide(x1 - x, y1 - y, out=np.zeros_like(x), where=crossing)
        return cls(*(each[crossing] for each in (owner, x, y, slope, first, stop)))

    def fill(self, mask: NDArray[np.bool_], top: int) -> None:
        """Set cells of rows [top, top + len(mask)); `mask` (rows, columns) must be contiguous."""
        width = mask.shape[1]
        cells = mask.reshape(-1)
        row, column = np.divmod(self._crossings(top, *mask.shape), width + 1)
        at = row % len(mask) * width + column
        # Sorted crossings of closed rings are pairs: into the polygon and out of it.
        for start, stop in zip(at[::2].tolist(), at[1::2].tolist(), strict=True):
            cells[start:stop] = True

    def _crossings(self, top: int, rows: int, width: int) -> NDArray[np.int64]:
        """Return (owner, row, column) packed into one number each, sorted.

        column is the first cell to the right of the crossing.
        """
        here = np.flatnonzero((self.first < top + rows) & (self.stop > top))
        first = np.maximum(self.first[here], top)
        count = np.minimum(self.stop[here], top + rows) - first
        edge = np.repeat(here, count)
        row = np.arange(len(edge)) + np.repeat(first - (np.cumsum(count) - count), count)
        x = self.x[edge] + (row - self.y[edge]) * self.slope[edge]
        column = np.clip(np.ceil(x), 0, width).astype(np.int64)
        key: NDArray[np.int64] = (self.owner[edge] * rows + row - top) * (width + 1) + column
        key.sort()
        return key
