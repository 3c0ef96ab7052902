"""Connected components of a map's cells, labelled and measured in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from slidescan.maps.contours import NOTHING
from slidescan.maps.store import Heatmap

BAND_ROWS = 256
"""Labels are counted and changed in bands of this many rows: numpy copies them as int64."""

Labels = NDArray[np.int32]
"""(rows, columns): components numbered from 1; 0 elsewhere"""
Floats = NDArray[np.float64]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Measures:
    """Measures of each component, (N,) or (N, 2) in the order (row, column), in cells."""

    cells: NDArray[np.int64]
    highest: Floats
    mean: Floats
    p95: Floats
    centre: Floats
    """mean index of its cells: 0.0 is the centre of the first row or column"""
    least: NDArray[np.int64]
    """first row and column"""
    most: NDArray[np.int64]
    """last row and column"""
    major_axis: Floats
    """of the ellipse with the same second central moments, cells being squares"""

    def __getitem__(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Self:
        return type(self)(*(getattr(self, each.name)[which] for each in fields(self)))


def label(inside: NDArray[np.bool_], least_cells: float) -> tuple[Labels, NDArray[np.int64]]:
    """Label the connected cells (8 neighbours), smaller components left out, and count them.

    Returns the labels and the cells of each component, (N,).
    """
    from scipy import ndimage  # slow to import

    labels = np.empty(inside.shape, np.int32)
    count = ndimage.label(inside, np.ones((3, 3)), output=labels)
    sizes = np.zeros(count + 1, np.int64)
    for band in _bands(labels):
        sizes += np.bincount(band.ravel(), minlength=count + 1)
    kept = sizes[1:] >= least_cells - 1e-9
    keep(labels, kept)
    return labels, sizes[1:][kept]


def keep(labels: Labels, kept: NDArray[np.bool_]) -> None:
    """Set the cells of other components to 0 and number the rest from 1, in place."""
    if kept.all():
        return
    numbers = np.zeros(len(kept) + 1, np.int32)
    numbers[1:][kept] = np.arange(1, np.count_nonzero(kept) + 1)
    for band in _bands(labels):
        band[...] = numbers[band]


def clear(padded: NDArray[np.int8], labels: Labels) -> None:
    """Set the relief (see `contours`) of cells without a label to NOTHING, in place."""
    inner = padded[1:-1, 1:-1]
    for cells, band in zip(_bands(inner), _bands(labels), strict=True):
        cells[(band == 0) & (cells > 0)] = NOTHING


def measure(
    heatmap: Heatmap,
    labels: Labels,
    sizes: NDArray[np.int64],
    advance: Callable[[int], object],
) -> Measures:
    """Measure the components; values are read block by block, those inside are kept.

    `advance` is called with the number of rows that were read.
    """
    group = _Groups(sizes)
    for block in heatmap.blocks():
        inside = labels[block.slices]
        if inside.any():
            group.add(inside, heatmap.read(block), block.y0, block.x0)
        if block.x1 == labels.shape[1]:
            advance(block.shape[0])
    return group.measures()


class _Groups:
    """Collects the values of each component, and sums over its cells."""

    def __init__(self, sizes: NDArray[np.int64]) -> None:
        count = len(sizes)
        self._sizes = sizes
        self._values = np.empty(sizes.sum(), np.float32)
        self._first = np.cumsum(sizes) - sizes
        self._next = self._first.copy()
        self._sums = np.zeros((5, count))  # row, column, row^2, column^2, row * column
        self._least = np.full((2, count), np.iinfo(np.int64).max)
        self._most = np.zeros((2, count), np.int64)

    def add(self, labels: Labels, values: NDArray[np.float32], top: int, left: int) -> None:
        """Add a block of cells whose first one is (top, left)."""
        row, column = np.nonzero(labels)
        number = labels[row, column] - 1
        order = np.argsort(number, kind="stable")
        row, column, number = row[order], column[order], number[order]
        starts = np.flatnonzero(np.diff(number, prepend=-1))
        lengths = np.diff(starts, append=len(number))
        here = number[starts]
        place = np.arange(len(number)) - np.repeat(starts - self._next[here], lengths)
        self._values[place] = values[row, column]
        self._next[here] += lengths
        at = np.stack([row + top, column + left])
        self._least[:, here] = np.minimum(self._least[:, here], np.minimum.reduceat(at, starts, 1))
        self._most[:, here] = np.maximum(self._most[:, here], np.maximum.reduceat(at, starts, 1))
        moments = np.concatenate([at, at**2, at[:1] * at[1:]])
        self._sums[:, here] += np.add.reduceat(moments, starts, 1)

    def measures(self) -> Measures:
        """The measures of what was added."""
        ends = self._first + self._sizes
        groups = [self._values[a:b] for a, b in zip(self._first, ends, strict=True)]
        centre = self._sums[:2] / self._sizes
        rr, cc = self._sums[2:4] / self._sizes - centre**2 + 1 / 12  # a cell is a square
        rc = self._sums[4] / self._sizes - centre.prod(axis=0)
        largest = (rr + cc) / 2 + np.hypot((rr - cc) / 2, rc)
        return Measures(
            cells=self._sizes,
            highest=np.array([each.max() for each in groups], float),
            mean=np.array([each.mean(dtype=float) for each in groups], float),
            # Last, as it reorders the values: a copy of them would take as much memory again.
            p95=np.array([np.percentile(each, 95, overwrite_input=True) for each in groups], float),
            centre=centre.T,
            least=self._least.T,
            most=self._most.T,
            major_axis=4 * np.sqrt(largest),
        )


def _bands(array: NDArray[T]) -> Iterator[NDArray[T]]:
    for top in range(0, len(array), BAND_ROWS):
        yield array[top : top + BAND_ROWS]
