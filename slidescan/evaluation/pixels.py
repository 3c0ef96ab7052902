"""Agreement of maps with annotations, cell by cell, where the slides were scanned.

The cells of hundreds of slides are about 10^9 numbers, so they are counted in bins and not kept.
Bins are narrow near 0 and 1, where most probabilities of a classifier lie: 0.05 % of p near 0 and
of 1 - p near 1. Values in one bin count as ties.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from slidescan.statistics.arrays import Floats
from slidescan.statistics.ranking import Curve, precision_recall_curve, roc_curve

_DROPPED_BITS = 12
"""Of the 23 bits of a float32's mantissa."""
_HALF = int(np.float32(0.5).view(np.uint32) >> _DROPPED_BITS)
BINS = 2 * _HALF + 1

PART_CELLS = 2**22
"""Cells that are counted at once."""

CURVE_POINTS = 1000
"""Points of a curve in a picture; the counts give up to `BINS`."""


@dataclass(slots=True)
class Pixels:
    """Counts of cells of one or several slides."""

    threshold: float
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, BINS), np.int64))
    """normal and tumour cells in each bin of p, from 0 up"""
    confusion: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, 2), np.int64))
    """[[normal called normal, called tumour], [tumour called normal, called tumour]]"""
    unscanned: int = 0
    """annotated tumour cells without a value; they are in no other count"""

    def add(self, values: NDArray[np.float32], tumour: NDArray[np.bool_]) -> None:
        """Count one slide: its map and the annotated cells, both (rows, columns)."""
        # Some rows at a time, because the temporary arrays are as large as the part of the map.
        step = max(1, PART_CELLS // values.shape[1])
        for top in range(0, len(values), step):
            self._add(values[top : top + step], tumour[top : top + step])

    def _add(self, values: NDArray[np.float32], tumour: NDArray[np.bool_]) -> None:
        scanned = np.isfinite(values)
        self.unscanned += int(np.count_nonzero(tumour & ~scanned))
        p, truth = values[scanned], tumour[scanned]
        self.counts += np.stack([np.bincount(bins(p[truth == t]), minlength=BINS) for t in (0, 1)])
        called = 2 * truth.astype(np.int64) + (p >= self.threshold)
        self.confusion += np.bincount(called, minlength=4).reshape(2, 2)

    def merge(self, other: Pixels) -> None:
        """Add the counts of other slides."""
        self.counts += other.counts
        self.confusion += other.confusion
        self.unscanned += other.unscanned

    @property
    def cells(self) -> int:
        """The number of scanned cells."""
        return int(self.confusion.sum())

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN) at the threshold; NaN without tumour and without calls.

        Over several slides it is the Dice of all cells together, not the mean over slides.
        """
        (_, false), (missed, true) = self.confusion.tolist()
        whole = 2 * true + false + missed
        return 2 * true / whole if whole else math.nan

    def roc(self) -> Curve:
        """False positive rate against true positive rate, and the AUC; NaN with one class."""
        return roc_curve(*self._cumulated())

    def precision_recall(self) -> Curve:
        """Recall against precision, and the average precision; NaN without tumour."""
        return precision_recall_curve(*self._cumulated())

    def _cumulated(self) -> tuple[Floats, Floats]:
        """True and false positives at each bin that holds any cell, from above the highest down."""
        some = self.counts[:, self.counts.any(axis=0)][:, ::-1]
        false, true = np.concatenate([np.zeros((2, 1)), np.cumsum(some, axis=1)], axis=1)
        return true, false


def bins(p: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the bin of each probability; bins rise with the probability.

    >>> bins(np.array([0, 0.25, 0.5, 0.75, 1], np.float32)) * 2 - BINS + 1
    array([-516096,   -4096,       0,    4096,  516096])
    """
    low = p < 0.5
    # The bits of floats of one sign are in their order; 1 - p is exact for p from 0.5 to 1.
    near = np.where(low, p, np.float32(1) - p).astype(np.float32)
    place = (near.view(np.uint32) >> _DROPPED_BITS).astype(np.int64)
    return np.where(low, place, BINS - 1 - place)


def thinned(curve: Curve, points: int = CURVE_POINTS) -> Curve:
    """Return the curve with fewer points, evenly along its length, and the same area."""
    if len(curve.x) <= points:
        return curve
    steps = np.abs(np.diff(curve.x)) + np.abs(np.diff(curve.y))
    along = np.concatenate([[0], np.cumsum(steps)])
    kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], points)))
    return Curve(curve.x[kept], curve.y[kept], curve.area)
