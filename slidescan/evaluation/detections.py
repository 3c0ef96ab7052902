"""From a map to points that say "tumour here": non-maximum suppression and connected components.

Both take a map's values (rows, columns), NaN where nothing was scanned, and give each detection a
cell and a score. Values at the threshold count as above it.
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
"""Liu et al. 2017 suppress within 6 px of 31.1 um, Li and Ping 2018 within 12 of 15.6 um."""

EVERY_NEIGHBOUR = np.ones((3, 3), bool)
"""Cells that touch by a corner are connected."""

_BATCH = 65536


@dataclass(frozen=True, slots=True)
class Detections:
    """Points of one slide, the highest score first; (N,) each."""

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
    """Non-maximum suppression: the highest value is a detection and silences a disc around it.

    Repeated until nothing from `threshold` up is left, as Liu et al. 2017 do, so no two
    detections lie within `radius_um` of each other, measured between the centres of cells. Of
    equal values the upper one comes first, then the left one.

    One sort and one disc for each detection: n log n in the cells above the threshold.
    """
    rows, columns = _above(values, threshold)
    order = np.argsort(-values[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    disc = _disc(radius_um / um_per_cell)
    silent = np.zeros(values.shape, bool)
    kept: list[int] = []
    for start in range(0, len(rows), _BATCH):
        batch = slice(start, start + _BATCH)
        # Most cells were silenced by an earlier batch: leave them out at once.
        for i in start + np.flatnonzero(~silent[rows[batch], columns[batch]]):
            if not silent[rows[i], columns[i]]:
                kept.append(int(i))
                _silence(silent, int(rows[i]), int(columns[i]), disc)
    return _detections(values, rows[kept], columns[kept])


def components(values: NDArray[np.float32], threshold: float = THRESHOLD) -> Detections:
    """One detection for each connected region (8 neighbours) from `threshold` up, at its maximum.

    Wang et al. 2016 report a region's centre and mean instead; the maximum always lies on the
    region, which the centre of a crescent does not.
    """
    labels = label(values, threshold)
    rows, columns = np.nonzero(labels)
    place = np.lexsort((-values[rows, columns], labels[rows, columns]))
    rows, columns = rows[place], columns[place]
    _, first = np.unique(labels[rows, columns], return_index=True)
    first = first[np.argsort(-values[rows[first], columns[first]], kind="stable")]
    return _detections(values, rows[first], columns[first])


def label(values: NDArray[np.float32], threshold: float) -> NDArray[np.int32]:
    """Number the connected regions (8 neighbours) from `threshold` up, from 1; 0 elsewhere."""
    labels: NDArray[np.int32] = ndimage.label(values >= threshold, EVERY_NEIGHBOUR)[0]
    return labels


def regions(labels: NDArray[Any], values: NDArray[np.float32] | None = None) -> list[Any]:
    """skimage's RegionProperties of each label, in the order of the labels."""
    from skimage.measure import regionprops

    found: list[Any] = regionprops(labels, values)  # type: ignore[no-untyped-call]
    return found


def _above(
    values: NDArray[np.float32], threshold: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the cells that count, row by row; NaN compares as false."""
    rows, columns = np.nonzero(values >= threshold)
    return rows, columns


def _detections(
    values: NDArray[np.float32], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> Detections:
    return Detections(rows, columns, values[rows, columns].astype(np.float32))


def _disc(radius: float) -> NDArray[np.bool_]:
    """Cells whose centre lies within `radius` cells of the middle one, (2k + 1, 2k + 1)."""
    reach = int(radius + 1e-9)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    inside: NDArray[np.bool_] = y**2 + x**2 <= radius**2 + 1e-9
    return inside


def _silence(silent: NDArray[np.bool_], row: int, column: int, disc: NDArray[np.bool_]) -> None:
    """Lay the disc around a cell, cut at the map's edges."""
    reach = len(disc) // 2
    top, left = max(0, row - reach), max(0, column - reach)
    part = silent[top : row + reach + 1, left : column + reach + 1]
    y, x = top - (row - reach), left - (column - reach)
    part |= disc[y : y + part.shape[0], x : x + part.shape[1]]
