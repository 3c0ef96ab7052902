"""ROC and precision-recall: scores sorted once, then counted for any number of resamples.

Everything that needs a ROC area or an average precision (patches, slides, cells of maps) computes
it here. The definitions are scikit-learn's: ties are one point of the curve, the ROC area follows
the trapezoidal rule, average precision is not interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from slidescan.statistics.arrays import Counts, Floats, Labels, Probabilities

NAN = float("nan")

Rows: TypeAlias = NDArray[np.intp] | slice


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve over all thresholds, from the highest down, and its area."""

    x: Floats
    y: Floats
    area: float


@dataclass(frozen=True)
class Ranking:
    """Labels (N,) 0 or 1 and scores (N,), none of them NaN."""

    labels: Labels
    scores: Probabilities

    def positives(self, counts: Counts | None = None) -> tuple[Floats, Floats]:
        """True and false positives at each distinct score, from above the highest down.

        counts: (N,) how often each patch was drawn; every patch once where None.
        """
        order, labels, last = self._order
        drawn = np.ones(len(labels), np.int64) if counts is None else counts[order]
        called, true = (np.cumsum(v)[last] for v in (drawn, drawn * labels))
        positives = np.concatenate([[0.0], true])
        return positives, np.concatenate([[0.0], called]) - positives

    @cached_property
    def _order(self) -> tuple[Rows, Labels, Rows]:
        """From the highest score down: the rows, their labels, and the last row of each tie."""
        order = np.argsort(-self.scores, kind="stable")
        last = np.append(np.diff(self.scores[order]) != 0, True)[: len(order)]
        labels, everything = self.labels[order], slice(None)
        return (
            # Indexing with every row in order would be most of the time of a resample.
            everything if (order[1:] > order[:-1]).all() else order,
            labels,
            everything if last.all() else np.flatnonzero(last),
        )


def roc_area(true: Floats, false: Floats) -> float:
    """The area under the ROC curve of cumulated positives; NaN with one class."""
    # From counts, so that nothing is rounded before the division.
    twice = float(np.diff(false) @ (true[1:] + true[:-1]))
    return twice / (2 * true[-1] * false[-1]) if true[-1] and false[-1] else NAN


def average_precision(true: Floats, false: Floats) -> float:
    """The area under the precision-recall curve, not interpolated; NaN without a positive."""
    if not true[-1]:
        return NAN
    return float(np.diff(true) @ _precision(true, false) / true[-1])


def roc_curve(true: Floats, false: Floats) -> Curve:
    """False positive rate against true positive rate; an empty curve with one class."""
    if not true[-1] or not false[-1]:
        return Curve(np.empty(0), np.empty(0), NAN)
    return Curve(false / false[-1], true / true[-1], roc_area(true, false))


def precision_recall_curve(true: Floats, false: Floats) -> Curve:
    """Recall against precision; an empty curve without a positive."""
    if not true[-1]:
        return Curve(np.empty(0), np.empty(0), NAN)
    precision = _precision(true, false)
    recall = true / true[-1]
    y = np.concatenate([precision[:1], precision])
    return Curve(recall, y, average_precision(true, false))


def _precision(true: Floats, false: Floats) -> Floats:
    # A resample may have drawn nothing above a threshold: 0 / 1 instead of 0 / 0.
    return np.asarray(true[1:] / np.maximum(true[1:] + false[1:], 1))
