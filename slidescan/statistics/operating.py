"""Thresholds that reach a sensitivity, and what a threshold gives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slidescan.statistics.arrays import Floats, Labels
from slidescan.statistics.metrics import SLACK


def threshold_at(labels: Labels, p: Floats, sensitivity: float) -> float:
    """Return the highest threshold at which at least this share of the positives is called.

    It lies halfway between two probabilities (N,), so that rounding of a probability does not
    change what is called. There must be a positive, and `sensitivity` be above 0.

    >>> threshold_at(np.array([0, 1, 0, 1]), np.array([0.1, 0.5, 0.7, 0.9]), 1.0)
    0.3
    """
    positives = np.sort(p[labels == 1])
    spare = int((1 - sensitivity) * len(positives) + SLACK)
    last = positives[spare]
    return float((last + p[p < last].max(initial=0.0)) / 2)


def rates(labels: Labels, called: NDArray[np.bool_]) -> tuple[float, float]:
    """Return sensitivity and specificity of calls (N,). Both labels must be there.

    >>> rates(np.array([0, 0, 1, 1]), np.array([False, True, True, True]))
    (1.0, 0.5)
    """
    return float(called[labels == 1].mean()), float(1 - called[labels == 0].mean())
