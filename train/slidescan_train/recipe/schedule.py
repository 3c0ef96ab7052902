"""Learning-rate schedules, as functions of the share of all steps that is done."""

from __future__ import annotations

import math
from collections.abc import Callable

from slidescan_train.recipe.config import TrainConfig

Shape = Callable[[float, float], float]
"""(share of the steps done, share of warm-up) to a share of the peak learning rate."""

FIRST, LAST = 1e-3, 1e-4
"""Shares of the peak: warm-up begins at FIRST, one-cycle ends at LAST."""


def _fall(done: float, warm_up: float) -> float:
    """From 1 to 0 along half a cosine, after the warm-up."""
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def _cosine(done: float, warm_up: float) -> float:
    """Linear warm-up, then a cosine to zero (Loshchilov and Hutter 2017)."""
    return done / warm_up + FIRST if done < warm_up else _fall(done, warm_up)


def _one_cycle(done: float, warm_up: float) -> float:
    """Up from a 25th and down along cosines (Smith and Topin 2018, as in fastai)."""
    if done < warm_up:
        return 1 - (1 - 1 / 25) * 0.5 * (1 + math.cos(math.pi * done / warm_up))
    return LAST + (1 - LAST) * _fall(done, warm_up)


def _constant(done: float, warm_up: float) -> float:
    """Linear warm-up, then constant."""
    return done / warm_up + FIRST if done < warm_up else 1.0


SHAPES: dict[str, Shape] = {"cosine": _cosine, "one-cycle": _one_cycle, "constant": _constant}


def rate(done: float, config: TrainConfig) -> float:
    """Return the learning rate after the share `done` of all steps."""
    return config.learning_rate * SHAPES[config.schedule](done, config.warm_up)
