"""What a classifier's probabilities are worth: the numbers behind the pictures.

Everywhere `labels` are (N,) 0 or 1 and `p` are (N,) probabilities of 1, none of them NaN. A
measure that the labels leave undefined, as the AUC of one class, is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Labels: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Probabilities: TypeAlias = NDArray[np.float32] | NDArray[np.float64]

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve over all thresholds, from the highest, and the area that sums it up."""

    x: Floats
    y: Floats
    area: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How often probabilities come true, in equal-width bins of P(1).

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
    """False positive rate against true positive rate, and the AUC."""
    true, false = _counts(labels, p)
    if not len(labels) or not true[-1] or not false[-1]:
        return Curve(np.empty(0), np.empty(0), NAN)
    x, y = false / false[-1], true / true[-1]
    return Curve(x, y, float(np.trapezoid(y, x)))


def precision_recall(labels: Labels, p: Probabilities) -> Curve:
    """Recall against precision, and the average precision: no interpolation, as scikit-learn's."""
    true, false = _counts(labels, p)
    if not len(labels) or not true[-1]:
        return Curve(np.empty(0), np.empty(0), NAN)
    recall, precision = true / true[-1], true[1:] / (true[1:] + false[1:])
    area = float(np.sum(np.diff(recall) * precision))
    return Curve(recall, np.concatenate([precision[:1], precision]), area)


def _counts(labels: Labels, p: Probabilities) -> tuple[Floats, Floats]:
    """True and false positives at each distinct threshold, from above the highest down."""
    order = np.argsort(-p, kind="stable")
    true = np.cumsum(labels[order])
    last = np.flatnonzero(np.append(np.diff(p[order]) != 0, True))[: len(p)]
    positives = np.concatenate([[0], true[last]]).astype(float)
    return positives, np.concatenate([[0], last + 1]) - positives


def confusion(labels: Labels, p: Probabilities, threshold: float = 0.5) -> NDArray[np.int64]:
    """[[true negatives, false positives], [false negatives, true positives]]."""
    called = (p >= threshold).astype(np.int64)
    return np.bincount(2 * labels + called, minlength=4).reshape(2, 2)


def brier(labels: Labels, p: Probabilities) -> float:
    """Mean squared difference of probability and label (Brier 1950)."""
    return float(np.mean((p.astype(float) - labels) ** 2)) if len(labels) else NAN


def calibration(labels: Labels, p: Probabilities, bins: int = 15) -> Calibration:
    """Bin the probabilities; 1.0 goes to the last bin."""
    place = np.minimum((p.astype(float) * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        predicted = np.bincount(place, p, bins) / counts
        observed = np.bincount(place, labels, bins) / counts
        low, high = _wilson(observed, counts)
    return Calibration(np.linspace(0, 1, bins + 1), counts, predicted, observed, low, high)


def _wilson(share: Floats, counts: NDArray[np.int64], z: float = 1.96) -> tuple[Floats, Floats]:
    middle = share + z**2 / (2 * counts)
    spread = z * np.sqrt(share * (1 - share) / counts + (z / (2 * counts)) ** 2)
    scale = 1 + z**2 / counts
    return (middle - spread) / scale, (middle + spread) / scale
