"""Detections in a map, by non-maximum suppression and by connected components.

Both take a map's values (rows, columns), NaN where nothing was scanned, and give each detection a
cell and a score. A value equal to the threshold counts as above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

THRESHOLD = 0.5
"""Liu et al. 2017 and Li and Ping 2018 report detections above 0.5."""

RADIUS_UM = 187.0
"""Liu et al. 2017 suppress within 6 px of 31.1 um, Li and Ping 2018 within 12 px of 15.6 um."""

EVERY_NEIGHBOUR = np.ones((3, 3), bool)
"""Cells that touch by a corner are connected."""

_BATCH = 65536


@dataclass(frozen=True, slots=True)
class Detections:
    """Detections on one slide, the highest score first; (N,) each."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)


def suppress(
    values: NDArray[np.float32],
    um_per_cell: float,
    radius_um: float = RADIUS_UM,
    threshold: float = THRESHOLD,
) -> Detections:
    """Return detections by non-maximum suppression.

    The highest value is a detection and suppresses all values in a disc around it; this is repeated
    until no value from `threshold` up is left (Liu et al. 2017). No two detections lie within
    `radius_um`, measured between the centres of cells. Of equal values the upper one comes first,
    then the left one.

    Cost: n log n in the cells above the threshold (one sort, and one disc for each detection).
    """
    rows, columns = _above(values, threshold)
    order = np.argsort(-values[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    disc = _disc(radius_um / um_per_cell)
    suppressed = np.zeros(values.shape, bool)
    kept: list[int] = []
    for start in range(0, len(rows), _BATCH):
        batch = slice(start, start + _BATCH)
        # Most cells were suppressed by an earlier batch: this drops them all at once.
        for i in start + np.flatnonzero(~suppressed[rows[batch], columns[batch]]):
            if not suppressed[rows[i], columns[i]]:
                kept.append(int(i))
                _suppress_disc(suppressed, int(rows[i]), int(columns[i]), disc)
    return _detections(values, rows[kept], columns[kept])


def components(values: NDArray[np.float32], threshold: float = THRESHOLD) -> Detections:
    """Return one detection per connected region (8 neighbours) from `threshold` up.

    It lies at the maximum of the region. Wang et al. 2016 report the region's centre and mean
    instead, but the centre of a crescent lies outside it.
    """
    labels = label(values, threshold)
    rows, columns = np.nonzero(labels)
    place = np.lexsort((-values[rows, columns], labels[rows, columns]))
    rows, columns = rows[place], columns[place]
    _, first = np.unique(labels[rows, columns], return_index=True)
    first = first[np.argsort(-values[rows[first], columns[first]], kind="stable")]
    return _detections(values, rows[first], columns[first])


def label(values: NDArray[np.float32], threshold: float) -> NDArray[np.int32]:
    """Number the connected regions (8 neighbours) from `threshold` up; 0 elsewhere."""
    labels: NDArray[np.int32] = ndimage.label(values >= threshold, EVERY_NEIGHBOUR)[0]
    return labels


def regions(labels: NDArray[Any], values: NDArray[np.float32] | None = None) -> list[Any]:
    """Return skimage's RegionProperties of each label, in the order of the labels."""
    from skimage.measure import regionprops

    found: list[Any] = regionprops(labels, values)  # type: ignore[no-untyped-call]
    return found


def _above(
    values: NDArray[np.float32], threshold: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows and columns of the cells above the threshold; NaN compares as false."""
    rows, columns = np.nonzero(values >= threshold)
    return rows, columns


def _detections(
    values: NDArray[np.float32], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> Detections:
    return Detections(rows, columns, values[rows, columns].astype(np.float32))


def _disc(radius: float) -> NDArray[np.bool_]:
    """Return the cells within `radius` cells of the middle one, (2k + 1, 2k + 1)."""
    reach = int(radius + 1e-9)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    inside: NDArray[np.bool_] = y**2 + x**2 <= radius**2 + 1e-9
    return inside


def _suppress_disc(
    suppressed: NDArray[np.bool_], row: int, column: int, disc: NDArray[np.bool_]
) -> None:
    """Set the disc around a cell, cut at the map's edges."""
    reach = len(disc) // 2
    top, left = max(0, row - reach), max(0, column - reach)
    part = suppressed[top : row + reach + 1, left : column + reach + 1]
    y, x = top - (row - reach), left - (column - reach)
    part |= disc[y : y + part.shape[0], x : x + part.shape[1]]
