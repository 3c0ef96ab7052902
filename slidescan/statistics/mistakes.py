"""Which predictions are most wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slidescan.statistics.arrays import Labels, Probabilities


def worst_mistakes(
    labels: Labels, probabilities: Probabilities, most: int = 40, threshold: float = 0.5
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of the worst false positives and of the worst false negatives, the worst first.

    At most half of `most` each. A NaN probability is no mistake of either kind.
    """
    positives = np.flatnonzero((labels == 0) & (probabilities >= threshold))
    negatives = np.flatnonzero((labels == 1) & (probabilities < threshold))
    by_p = [
        positives[np.argsort(-probabilities[positives], kind="stable")],
        negatives[np.argsort(probabilities[negatives], kind="stable")],
    ]
    return by_p[0][: most // 2], by_p[1][: most // 2]
