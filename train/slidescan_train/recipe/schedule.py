"""Learning rates over a run, as functions of the share of its steps that is done."""

from __future__ import annotations

import math
from collections.abc import Callable

from slidescan_train.recipe.config import TrainConfig

Shape = Callable[[float, float], float]
"""(share of all steps done, share spent rising) to a share of the peak rate."""

FIRST, LAST = 1e-3, 1e-4
"""Of the peak: a warm-up begins at FIRST, one-cycle ends at LAST."""


def _fall(done: float, warm_up: float) -> float:
    """From 1 to 0 along a half cosine, over what the warm-up leaves."""
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def _cosine(done: float, warm_up: float) -> float:
    """Linear warm-up, then a cosine to zero (Loshchilov and Hutter 2017)."""
    return done / warm_up + FIRST if done < warm_up else _fall(done, warm_up)


def _one_cycle(done: float, warm_up: float) -> float:
    """Up and down along cosines, from a 25th (Smith and Topin 2018, as fastai draws it)."""
    if done < warm_up:
        return 1 - (1 - 1 / 25) * 0.5 * (1 + math.cos(math.pi * done / warm_up))
    return LAST + (1 - LAST) * _fall(done, warm_up)


def _constant(done: float, warm_up: float) -> float:
    """Linear warm-up, then the rate itself."""
    return done / warm_up + FIRST if done < warm_up else 1.0


SHAPES: dict[str, Shape] = {"cosine": _cosine, "one-cycle": _one_cycle, "constant": _constant}


def rate(done: float, config: TrainConfig) -> float:
    """The learning rate after a share `done` of all steps."""
    return config.learning_rate * SHAPES[config.schedule](done, config.warm_up)
