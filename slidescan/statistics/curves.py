"""Curves and bins of a classifier's probabilities, for tables and pictures.

Everywhere `labels` are (N,) 0 or 1 and `p` are (N,) probabilities of 1, none of them NaN. A
measure that the labels leave undefined, such as the ROC area of one class, is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidescan.statistics.arrays import Floats, Labels, Probabilities
from slidescan.statistics.ranking import (
    NAN,
    Curve,
    Ranking,
    precision_recall_curve,
    roc_curve,
)

FROC_RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per slide at which Camelyon16 reads the sensitivity."""


@dataclass(frozen=True, slots=True)
class Froc:
    """A FROC curve, its sensitivity at `FROC_RATES`, and their mean; NaN without a lesion."""

    rates: Floats
    """(N,) false positives per slide, rising from 0."""
    sensitivity: Floats
    """(N,) share of the lesions found at that rate."""
    at: Floats
    """(6,)"""
    score: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """Predicted against observed frequency, in equal-width bins of P(1).

    Bins without patches hold NaN.
    """

    edges: Floats
    """(bins + 1,)."""
    counts: NDArray[np.int64]
    predicted: Floats
    """Mean probability."""
    observed: Floats
    """Share of 1."""
    low: Floats
    high: Floats
    """95 % interval of `observed` (Wilson 1927)."""

    @property
    def error(self) -> float:
        """Expected calibration error (Naeini et al. 2015), of P(1): the mean gap over patches."""
        if not self.counts.sum():
            return NAN
        gaps = np.abs(self.observed - self.predicted)
        return float(np.nansum(self.counts * gaps) / self.counts.sum())


def roc(labels: Labels, p: Probabilities) -> Curve:
    """False positive rate against true positive rate, and the ROC area."""
    return roc_curve(*Ranking(labels, p).positives())


def precision_recall(labels: Labels, p: Probabilities) -> Curve:
    """Recall against precision, and the average precision."""
    return precision_recall_curve(*Ranking(labels, p).positives())


def confusion(labels: Labels, p: Probabilities, threshold: float = 0.5) -> NDArray[np.int64]:
    """[[true negatives, false positives], [false negatives, true positives]]."""
    called = (p >= threshold).astype(np.int64)
    return np.bincount(2 * labels + called, minlength=4).reshape(2, 2)


def brier(labels: Labels, p: Probabilities) -> float:
    """Mean squared difference of probability and label (Brier 1950)."""
    return float(np.mean((p.astype(float) - labels) ** 2)) if len(labels) else NAN


def reliability(labels: Labels, p: Probabilities, bins: int = 15) -> Reliability:
    """Bin the probabilities; 1.0 goes to the last bin."""
    place = np.minimum((p.astype(float) * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        predicted = np.bincount(place, p, bins) / counts
        observed = np.bincount(place, labels, bins) / counts
        low, high = _wilson(observed, counts)
    return Reliability(np.linspace(0, 1, bins + 1), counts, predicted, observed, low, high)


def _wilson(share: Floats, counts: NDArray[np.int64], z: float = 1.96) -> tuple[Floats, Floats]:
    middle = share + z**2 / (2 * counts)
    spread = z * np.sqrt(share * (1 - share) / counts + (z / (2 * counts)) ** 2)
    scale = 1 + z**2 / counts
    return (middle - spread) / scale, (middle + spread) / scale
