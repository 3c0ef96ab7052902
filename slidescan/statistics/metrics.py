"""All metrics of patch probabilities at once, for patches drawn any number of times.

The definitions are scikit-learn's. A metric that the labels leave undefined is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from slidescan.statistics.arrays import Counts, Floats, Labels
from slidescan.statistics.ranking import Ranking, average_precision, roc_area

BINS = 15
"""Equal-width bins of P(tumour) for the expected calibration error."""
SLACK = 1e-9
"""Tolerance, in patches: 0.05 * 100 is a little more than 5 in binary."""


@dataclass(frozen=True, slots=True)
class OperatingPoints:
    """Where probabilities become decisions."""

    threshold: float = 0.5
    """Probabilities from here on are called tumour."""
    specificity: float = 0.95
    """The sensitivity is reported at this specificity."""
    sensitivity: float = 0.95
    """The specificity is reported at this sensitivity."""


def names(choices: OperatingPoints) -> dict[str, str]:
    """Return key and name of each metric, in the order of `Evaluation.values`."""
    return {
        "roc_auc": "ROC AUC",
        "average_precision": "Average precision",
        "accuracy": "Accuracy",
        "balanced_accuracy": "Balanced accuracy",
        "f1": "F1",
        "sensitivity": "Sensitivity",
        "specificity": "Specificity",
        "sensitivity_at_specificity": f"Sensitivity at specificity {choices.specificity:g}",
        "specificity_at_sensitivity": f"Specificity at sensitivity {choices.sensitivity:g}",
        "nll": "Negative log-likelihood",
        "brier": "Brier score",
        "ece": f"Expected calibration error ({BINS} bins)",
    }


@dataclass(frozen=True)
class Evaluation:
    """Labels (N,) 0 or 1 and probabilities (N,) in [0, 1], sorted once for all resamples."""

    labels: Labels
    p: Floats
    choices: OperatingPoints = OperatingPoints()

    def values(self, counts: Counts) -> Floats:
        """Return every metric for patches drawn `counts` (N,) times, in the order of `names`."""
        true, false = self._ranking.positives(counts)
        return np.array(
            [
                roc_area(true, false),
                average_precision(true, false) if false[-1] else float("nan"),
                *self._decisions(counts),
                self._sensitivity_at(true, false),
                self._specificity_at(true, false),
                *(counts @ self._losses / counts.sum()).tolist(),
                self._ece(counts),
            ]
        )

    @cached_property
    def _ranking(self) -> Ranking:
        return Ranking(self.labels, self.p)

    def _decisions(self, counts: Counts) -> list[float]:
        """Return accuracy, balanced accuracy, F1, sensitivity, specificity at the threshold."""
        (normal, false), (missed, true) = self.confusion(counts).tolist()
        sensitivity = _ratio(true, true + missed)
        specificity = _ratio(normal, normal + false)
        return [
            _ratio(true + normal, true + normal + false + missed),
            (sensitivity + specificity) / 2,
            _ratio(2 * true, 2 * true + false + missed),
            sensitivity,
            specificity,
        ]

    def confusion(self, counts: Counts) -> NDArray[np.float64]:
        """[[true negatives, false positives], [false negatives, true positives]]."""
        return np.bincount(self._cell, counts, 4).reshape(2, 2).astype(np.float64)

    @cached_property
    def _cell(self) -> NDArray[np.int64]:
        return 2 * self.labels + (self.p >= self.choices.threshold)

    def _sensitivity_at(self, true: Floats, false: Floats) -> float:
        """Return the highest sensitivity of the thresholds with at least that specificity."""
        allowed = (1 - self.choices.specificity) * false[-1] + SLACK
        return _ratio(true[np.searchsorted(false, allowed, "right") - 1], true[-1], false[-1])

    def _specificity_at(self, true: Floats, false: Floats) -> float:
        wanted = self.choices.sensitivity * true[-1] - SLACK
        return _ratio(false[-1] - false[np.searchsorted(true, wanted)], false[-1], true[-1])

    @cached_property
    def _losses(self) -> Floats:
        """(N, 2): negative log-likelihood and squared error of each patch."""
        # As scikit-learn: a mistake with probability 1 costs 36 instead of infinity.
        least = np.finfo(self.p.dtype).eps
        p = np.clip(self.p, least, 1 - least)
        nll = -np.where(self.labels == 1, np.log(p), np.log1p(-p))
        return np.stack([nll, (self.p - self.labels) ** 2], axis=1)

    @cached_property
    def _bin(self) -> NDArray[np.int64]:
        return np.minimum((self.p * BINS).astype(np.int64), BINS - 1)

    def _ece(self, counts: Counts) -> float:
        """Naeini et al. 2015, of P(tumour): the mean gap of the bins, weighted by patches."""
        gaps = np.bincount(self._bin, counts * (self.labels - self.p), BINS)
        return float(np.abs(gaps).sum() / counts.sum())


def _ratio(part: float, whole: float, *also: float) -> float:
    """Return part / whole; NaN where `whole` or a number of `also` is 0."""
    return float(part / whole) if whole and all(also) else float("nan")
