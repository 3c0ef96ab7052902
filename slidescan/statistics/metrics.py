"""What patch probabilities are worth: every metric at once, of patches drawn any number of times.

The definitions are scikit-learn's; what the labels leave undefined is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Labels: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]
Rows: TypeAlias = NDArray[np.intp] | slice

BINS = 15
"""Equal-width bins of P(tumour) for the ECE."""
SLACK = 1e-9
"""0.95 of 100 patches are 95, though 0.05 * 100 in binary is a little more than 5."""


@dataclass(frozen=True, slots=True)
class Choices:
    """Where probabilities become decisions."""

    threshold: float = 0.5
    specificity: float = 0.95
    """At which the sensitivity is given."""
    sensitivity: float = 0.95
    """At which the specificity is given."""


def names(choices: Choices) -> dict[str, str]:
    """Key and name of each metric, in the order of `Evaluation.values`."""
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
    choices: Choices = Choices()

    def values(self, counts: Counts) -> Floats:
        """Every metric of patches drawn `counts` (N,) times, in the order of `names`."""
        true, false = self._curve(counts)
        return np.array(
            [
                _auc(true, false),
                _average_precision(true, false),
                *self._decisions(counts),
                self._sensitivity_at(true, false),
                self._specificity_at(true, false),
                *(counts @ self._losses / counts.sum()).tolist(),
                self._ece(counts),
            ]
        )

    @cached_property
    def _order(self) -> tuple[Rows, Labels, Rows]:
        """From the highest probability: the rows, their labels, and the last of each tie."""
        order = np.argsort(-self.p, kind="stable")
        last = np.append(np.diff(self.p[order]) != 0, True)
        labels, everything = self.labels[order], slice(None)
        return (
            # Picking all in their order is most of the time of a resample.
            everything if (order[1:] > order[:-1]).all() else order,
            labels,
            everything if last.all() else np.flatnonzero(last),
        )

    def _curve(self, counts: Counts) -> tuple[Floats, Floats]:
        """True and false positives at each distinct threshold, from above the highest down."""
        order, labels, last = self._order
        drawn = counts[order]
        called, true = (np.cumsum(v)[last] for v in (drawn, drawn * labels))
        positives = np.concatenate([[0.0], true])
        return positives, np.concatenate([[0.0], called]) - positives

    def _decisions(self, counts: Counts) -> list[float]:
        """Accuracy, balanced accuracy, F1, sensitivity, specificity at the threshold."""
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
        """The highest at any threshold whose specificity is at least the one chosen."""
        allowed = (1 - self.choices.specificity) * false[-1] + SLACK
        return _ratio(true[np.searchsorted(false, allowed, "right") - 1], true[-1], false[-1])

    def _specificity_at(self, true: Floats, false: Floats) -> float:
        wanted = self.choices.sensitivity * true[-1] - SLACK
        return _ratio(false[-1] - false[np.searchsorted(true, wanted)], false[-1], true[-1])

    @cached_property
    def _losses(self) -> Floats:
        """(N, 2): negative log-likelihood and squared error of each patch."""
        # As scikit-learn: a certain mistake costs 36, not infinity.
        least = np.finfo(self.p.dtype).eps
        p = np.clip(self.p, least, 1 - least)
        nll = -np.where(self.labels == 1, np.log(p), np.log1p(-p))
        return np.stack([nll, (self.p - self.labels) ** 2], axis=1)

    @cached_property
    def _bin(self) -> NDArray[np.int64]:
        return np.minimum((self.p * BINS).astype(np.int64), BINS - 1)

    def _ece(self, counts: Counts) -> float:
        """Naeini et al. 2015, of P(tumour): the gap of each bin weighs as many as it holds."""
        gaps = np.bincount(self._bin, counts * (self.labels - self.p), BINS)
        return float(np.abs(gaps).sum() / counts.sum())


def _ratio(part: float, whole: float, *also: float) -> float:
    """NaN where `whole`, or another number it needs, is 0."""
    return float(part / whole) if whole and all(also) else float("nan")


def _auc(true: Floats, false: Floats) -> float:
    # By the trapezoidal rule; of counts, so without rounding.
    twice = float(np.diff(false) @ (true[1:] + true[:-1]))
    return _ratio(twice, 2 * true[-1] * false[-1])


def _average_precision(true: Floats, false: Floats) -> float:
    """No interpolation."""
    if not (true[-1] and false[-1]):
        return float("nan")
    # Where a resample drew nothing above a threshold it gained nothing either: 0 / 1, not 0 / 0.
    precision = true[1:] / np.maximum(true[1:] + false[1:], 1)
    return float(np.diff(true) @ precision / true[-1])
