"""DeLong's test of the difference between two ROC areas on the same patches.

DeLong et al. 1988, Biometrics 44:837; computed from ranks as by Sun and Xu 2014, IEEE Signal
Processing Letters 21:1389, so that no matrix of pairs is built. It takes patches as independent.
"""

from __future__ import annotations

import math

import numpy as np

from slidescan.statistics.arrays import Floats, Labels


def delong_p(labels: Labels, first: Floats, second: Floats) -> float:
    """Two-sided p-value of equal ROC areas; NaN with fewer than two patches of either label.

    labels: (N,) 0 or 1. first, second: (N,) scores of the same patches in the same order.
    """
    if min(np.count_nonzero(labels == 0), np.count_nonzero(labels == 1)) < 2:
        return math.nan
    pairs = [_placements(labels, scores) for scores in (first, second)]
    # The area is the mean of the placements, so its variance is that of two independent means.
    of_tumour, of_normal = (a - b for a, b in zip(*pairs, strict=True))
    difference = of_tumour.mean()
    variance = sum(part.var(ddof=1) / len(part) for part in (of_tumour, of_normal))
    if not variance:
        return 1.0 if difference == 0 else 0.0
    return math.erfc(abs(difference) / math.sqrt(2 * variance))


def _placements(labels: Labels, scores: Floats) -> tuple[Floats, Floats]:
    """For each tumour patch the share of normal ones below it, for each normal one of tumour above.

    Ties count half.
    """
    tumour, normal = scores[labels == 1], scores[labels == 0]
    return _share_below(normal, tumour), 1 - _share_below(tumour, normal)


def _share_below(values: Floats, points: Floats) -> Floats:
    ordered = np.sort(values)
    below, up_to = (np.searchsorted(ordered, points, side) for side in ("left", "right"))
    return np.asarray((below + up_to) / (2 * len(values)))
