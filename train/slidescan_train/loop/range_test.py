"""Learning-rate range test (Smith 2017): the rate rises step by step while the loss is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.patches.labelled.patches import Patches
from slidescan.tools.csv_tables import write_table
from slidescan_train.loop.learner import DivergedError, Learner
from slidescan_train.loop.loader import Batch, Loader, epoch_plan
from slidescan_train.loop.training import worker_count

SMOOTHING = 0.9
"""Of the exponential average over steps, corrected for its start, as fastai has it."""
BLOWN_UP = 4.0
"""The test ends where the smoothed loss is so many times its minimum."""


@dataclass(frozen=True, slots=True)
class RangeTest:
    """A curve and what it suggests."""

    rates: list[float]
    losses: list[float]
    smooth: list[float]

    @property
    def suggestion(self) -> float | None:
        """Where the smoothed loss falls most steeply over the logarithm of the rate, before its
        minimum; None where it never falls."""
        lowest = int(np.argmin(self.smooth)) if self.smooth else 0
        if lowest < 2:
            return None
        slope = np.gradient(self.smooth[: lowest + 1], np.log(self.rates[: lowest + 1]))
        steepest = int(np.argmin(slope))
        return self.rates[steepest] if slope[steepest] < 0 else None

    @property
    def lowest(self) -> float:
        """The rate of the smallest smoothed loss: training at it is at the edge."""
        return self.rates[int(np.argmin(self.smooth))]

    def write(self, path: Path) -> None:
        """As CSV: learning_rate, loss, smoothed_loss."""
        rows = zip(self.rates, self.losses, self.smooth, strict=True)
        write_table(path, ("learning_rate", "loss", "smoothed_loss"), rows)


def range_test(
    learner: Learner,
    training: Patches,
    rates: Sequence[float],
    on_step: Callable[[float, float], None],
) -> RangeTest:
    """Take a step at each of `rates`, which rise, until the loss blows up.

    `on_step` is given the rate and the smoothed loss.
    """
    config = learner.config
    test, average = RangeTest([], [], []), 0.0
    learner.network.train()
    workers = worker_count(config, learner.fabric)
    with Loader(training, config.augment, config.seed, workers) as loader:
        stream = _steps(learner, training, loader)
        for number, (rate, (parts, batches)) in enumerate(zip(rates, stream, strict=False), 1):
            try:
                loss = learner.step(batches, parts, rate, (config.seed, 0, number)).loss
            except DivergedError:
                break
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            smooth = average / (1 - SMOOTHING**number)
            test.rates.append(rate)
            test.losses.append(loss)
            test.smooth.append(smooth)
            on_step(rate, smooth)
            if smooth > BLOWN_UP * min(test.smooth):
                break
    return test


def _steps(
    learner: Learner, training: Patches, loader: Loader
) -> Iterator[tuple[list[NDArray[np.intp]], Iterator[Batch]]]:
    """The steps of one epoch after the other: (micro-batches, what brings them)."""
    config = learner.config
    for epoch in count(1):
        plan = epoch_plan(len(training), config, epoch)
        batches = loader.load(epoch, [rows for parts in plan for rows in parts])
        for parts in plan:
            yield parts, batches
