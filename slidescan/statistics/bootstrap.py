"""Percentile bootstrap intervals (Efron and Tibshirani 1993, ch. 13) by resampling weights.

A resample is a count for each unit: how often it was drawn. Units are slides where the patches of a
slide resemble each other, else patches. Statistics take counts, so that nothing is sorted or copied
again for a resample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from slidescan.statistics.arrays import Counts, Floats

RESAMPLES = 1000
LEVEL = 0.95
FEW = 10
"""With fewer units, percentile intervals are too narrow."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A statistic and its interval; all NaN where it is undefined."""

    value: float
    low: float
    high: float
    undefined: int = 0
    """Resamples left out because the statistic was undefined, such as the AUC of one class."""


def resample(
    statistic: Callable[[Counts], Floats],
    units: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
    on_resample: Callable[[], object] = lambda: None,
) -> Floats:
    """Return (resamples, M) values of a statistic that maps counts (units,) to M values."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(resamples):
        drawn = rng.integers(0, units, units)
        rows.append(statistic(np.bincount(drawn, minlength=units)))
        on_resample()
    return np.array(rows)


def intervals(values: Floats, samples: Floats, level: float = LEVEL) -> list[Interval]:
    """Return the percentile interval of each of M `values`, from `samples` (resamples, M).

    NaN samples are left out and counted. Without samples, (0, M), the bounds are NaN.
    """
    return [_interval(float(v), column, level) for v, column in zip(values, samples.T, strict=True)]


def _interval(value: float, samples: Floats, level: float) -> Interval:
    known = samples[np.isfinite(samples)]
    if np.isnan(value) or not len(known):
        return Interval(value, float("nan"), float("nan"), len(samples) - len(known))
    tail = (1 - level) / 2
    low, high = np.quantile(known, (tail, 1 - tail)).tolist()
    return Interval(value, low, high, len(samples) - len(known))


def bootstrap(
    statistic: Callable[[Counts], Floats],
    units: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
    on_resample: Callable[[], object] = lambda: None,
) -> list[Interval]:
    """Return the statistic with every unit once, and its percentile interval.

    The bounds are NaN with fewer than two units, which cannot be resampled.
    """
    values = statistic(np.ones(units, np.int64))
    if units < 2 or not resamples:
        return intervals(values, np.empty((0, len(values))), level)
    return intervals(values, resample(statistic, units, resamples, seed, on_resample), level)
