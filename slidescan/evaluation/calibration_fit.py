"""Fit a calibration to labelled patches: a temperature, or isotonic regression."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, isotonic_regression
from scipy.special import expit

from slidescan.errors import DataError
from slidescan.models.operating import SENSITIVITIES, OperatingPoint
from slidescan.networks.logit_map import LogitMap
from slidescan.statistics.arrays import Floats, Labels
from slidescan.statistics.curves import reliability
from slidescan.statistics.operating import rates, threshold_at

Fit: TypeAlias = Callable[[Floats, Labels], LogitMap]

TEMPERATURES = 0.1, 50.0
"""Range of the temperature. Outside it, the network separates the labels perfectly or not at all.
Below it, 1 / temperature would also amplify the rounding of logits."""
BLOCK = 20
"""Patches per knot, at least; fewer do not determine a probability."""
STEEPEST = 2.0
"""Slope between knots, at most; it multiplies the rounding of logits. With a slope of 3.3 bf16
moved a probability by 0.029, with 2 by 0.017; its bound is 0.02."""
KNOTS = 50
"""Number of knots, at most."""
APART, DIGITS = 1e-3, 6
"""Least rise between knots, and decimals of a knot: knots rise by more than their rounding."""
FOLDS = 5


def fit_temperature(logits: Floats, labels: Labels) -> LogitMap:
    """Return the temperature of least negative log-likelihood (Guo et al. 2017).

    `logits` (N,) are log-odds of tumour. Raises `DataError` where no temperature fits.
    """
    _check(logits, labels)

    def slope(cold: float) -> float:
        # The derivative of the negative log-likelihood, which is convex in 1 / temperature.
        return float(logits @ (expit(logits * cold) - labels))

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if slope(low) >= 0:
        raise DataError(
            "the network's logits do not predict these labels, so no temperature fits; are the "
            "labels those of the patches?"
        )
    if slope(high) <= 0:
        raise DataError(
            f"the network is right on nearly all of these {len(labels)} patches, so no temperature "
            "fits; calibrate on more patches that it was not trained on"
        )
    return LogitMap(temperature=1 / brentq(slope, low, high, xtol=1e-14, rtol=1e-14))


def fit_isotonic(logits: Floats, labels: Labels) -> LogitMap:
    """Return an isotonic regression (a monotone curve; Zadrozny and Elkan 2002) of the log-odds.

    The regression's steps would give different patches equal probabilities and turn a rounding
    error into a jump. The curve is therefore piecewise linear: each block of the regression is a
    knot at its mean, and blocks that are small or make the curve too steep are joined. Beyond the
    outer knots the slope is 1 / temperature.
    """
    cold = fit_temperature(logits, labels)
    x, of, patches = np.unique(logits, return_inverse=True, return_counts=True)
    positives = np.bincount(of, labels)
    starts = isotonic_regression(positives / patches, weights=patches).blocks[:-1]
    sums = (np.add.reduceat(values, starts) for values in (patches, x * patches, positives))
    joined = _Line(max(BLOCK, len(labels) // KNOTS))
    for block in zip(*(values.tolist() for values in sums), strict=True):
        joined.add(_Block(*block))
    knots = joined.knots()
    if len(knots) < 2:
        raise DataError(
            f"{len(labels)} patches are too few for isotonic regression; calibrate on more "
            "patches, or without --isotonic"
        )
    return LogitMap(temperature=cold.temperature, isotonic=knots)


@dataclass(frozen=True, slots=True)
class _Block:
    """Patches with neighbouring logits that get one probability."""

    patches: int
    total: float
    """Sum of their logits."""
    positives: float

    def __add__(self, other: _Block) -> _Block:
        return _Block(
            self.patches + other.patches,
            self.total + other.total,
            self.positives + other.positives,
        )

    @property
    def x(self) -> float:
        return self.total / self.patches

    @property
    def y(self) -> float:
        # Half a patch of each label is added: a block without positives does not mean P = 0.
        return float(np.log((self.positives + 0.5) / (self.patches - self.positives + 0.5)))


class _Line:
    """Blocks of at least `least` patches whose log-odds rise, within `STEEPEST`."""

    def __init__(self, least: int) -> None:
        self.least = least
        self.blocks: list[_Block] = []

    def add(self, block: _Block) -> None:
        """Append a block; join it with those before it where it may not follow them."""
        while self.blocks and not self._follows(self.blocks[-1], block):
            block = self.blocks.pop() + block
        self.blocks.append(block)

    def _follows(self, before: _Block, block: _Block) -> bool:
        rise, run = block.y - before.y, block.x - before.x
        return before.patches >= self.least and APART < rise <= STEEPEST * run

    def knots(self) -> tuple[tuple[float, float], ...]:
        """Return the knots, rounded for the card."""
        if len(self.blocks) > 1 and self.blocks[-1].patches < self.least:
            last = self.blocks.pop()
            self.add(self.blocks.pop() + last)
        return tuple((round(b.x, DIGITS), round(b.y, DIGITS)) for b in self.blocks)


def apply(by: LogitMap, logits: Floats) -> Floats:
    """Return calibrated log-odds (N,), as the network's `Calibrate` does, in numpy."""
    if by.isotonic is None:
        return logits / by.temperature
    x, y = np.array(by.isotonic).T
    beyond: Floats = (np.minimum(logits - x[0], 0) + np.maximum(logits - x[-1], 0)) / by.temperature
    return np.asarray(np.interp(logits, x, y)) + beyond


@dataclass(frozen=True, slots=True)
class Quality:
    """How well log-odds predict labels."""

    nll: float
    ece: float

    @classmethod
    def of(cls, logits: Floats, labels: Labels) -> Quality:
        nll = np.logaddexp(0, np.where(labels == 1, -logits, logits)).mean()
        return cls(float(nll), reliability(labels, expit(logits)).error)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A fit and its quality."""

    by: LogitMap
    before: Quality
    after: Quality
    """On the patches of the fit, which is optimistic."""
    cross_fitted: Quality | None
    """Each patch calibrated by a fit to the other folds; None where a fold allows no fit."""
    points: dict[str, OperatingPoint]
    """By name, with the probabilities of `by`."""


def calibrate(
    logits: Floats, labels: Labels, units: Sequence[str], fit: Fit, count: int = FOLDS
) -> Outcome:
    """Fit, and measure the fit in `count` folds; patches with the same unit (N,) share a fold.

    Raises `DataError` where the patches allow no fit.
    """
    by = fit(logits, labels)
    calibrated = apply(by, logits)
    before, after = (Quality.of(values, labels) for values in (logits, calibrated))
    try:
        crossed = _cross_fitted(logits, labels, folds(units, count), fit)
    except DataError:
        return Outcome(by, before, after, None, _points(calibrated, labels, None))
    quality = Quality.of(crossed.logits, labels)
    return Outcome(by, before, after, quality, _points(calibrated, labels, crossed))


@dataclass(frozen=True, slots=True)
class _Crossed:
    """Each patch judged by the calibration and the thresholds of the other folds."""

    logits: Floats
    called: dict[str, NDArray[np.bool_]]
    """By operating point."""


def _cross_fitted(logits: Floats, labels: Labels, place: NDArray[np.int64], fit: Fit) -> _Crossed:
    crossed = np.empty_like(logits)
    called = {name: np.zeros(len(labels), np.bool_) for name in SENSITIVITIES}
    for fold in np.unique(place):
        out = place == fold
        by = fit(logits[~out], labels[~out])
        crossed[out] = apply(by, logits[out])
        inside = expit(apply(by, logits[~out]))
        for name, sensitivity in SENSITIVITIES.items():
            threshold = threshold_at(labels[~out], inside, sensitivity)
            called[name][out] = expit(crossed[out]) >= threshold
    return _Crossed(crossed, called)


def _points(logits: Floats, labels: Labels, crossed: _Crossed | None) -> dict[str, OperatingPoint]:
    """Choose the thresholds of calibrated log-odds, and count what they give."""
    p, points = expit(logits), {}
    for name, wanted in SENSITIVITIES.items():
        threshold = threshold_at(labels, p, wanted)
        sensitivity, specificity = rates(labels, p >= threshold)
        there = rates(labels, crossed.called[name]) if crossed else (None, None)
        points[name] = OperatingPoint(
            threshold=threshold,
            sensitivity=sensitivity,
            specificity=specificity,
            sensitivity_cross_fitted=there[0],
            specificity_cross_fitted=there[1],
        )
    return points


def folds(units: Sequence[str], count: int = FOLDS) -> NDArray[np.int64]:
    """Return the fold (N,) of each patch: units in even parts, in the order of their SHA-256."""
    names, of = np.unique(units, return_inverse=True)
    keys = [hashlib.sha256(f"fold {name}".encode()).hexdigest() for name in names]
    ranks = np.argsort(np.argsort(keys))
    return (ranks % min(count, len(names)))[of]


def _check(logits: Floats, labels: Labels) -> None:
    if not np.isfinite(logits).all():
        bad = np.count_nonzero(~np.isfinite(logits))
        raise DataError(f"the network's logits are not finite on {bad} of {len(logits)} patches")
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"calibration needs patches of both labels, but all {len(labels)} have the same; add "
            "patches of the other label"
        )
