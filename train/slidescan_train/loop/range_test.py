"""Learning-rate range test (Smith 2017): the loss of steps at rising learning rates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.patches.labelled.patches import Patches
from slidescan.tools.csv_tables import write_table
from slidescan_train.loop.devices import worker_count
from slidescan_train.loop.learner import DivergedError, Learner
from slidescan_train.loop.loader import Batch, Loader, epoch_plan

SMOOTHING = 0.9
"""Of the exponential average over the losses, corrected for its start, as in fastai."""
BLOWN_UP = 4.0
"""The test ends where the smoothed loss is this many times its minimum."""
MARGIN = 10.0
"""Between the rate at the lowest loss and the suggested one."""


@dataclass(frozen=True, slots=True)
class RangeTest:
    """The losses at each learning rate, and the rate they suggest."""

    rates: list[float]
    losses: list[float]
    smooth: list[float]

    @property
    def suggestion(self) -> float | None:
        """A tenth of the rate at the lowest smoothed loss; None where the loss never falls.

        The rule `minimum` of fastai's learning-rate finder (Howard and Gugger 2020): training at
        the lowest loss itself is at the brink of divergence.
        """
        if not self.smooth or int(np.argmin(self.smooth)) < 2:
            return None
        return self.lowest / MARGIN

    @property
    def lowest(self) -> float:
        """The rate at the lowest smoothed loss."""
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
    """Take a step at each of the rising `rates` until the loss diverges.

    `on_step` is called with the rate and the smoothed loss.
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
    """Yield the steps of epoch after epoch: the rows of the micro-batches, and their loader."""
    config = learner.config
    for epoch in count(1):
        plan = epoch_plan(len(training), config, epoch)
        batches = loader.load(epoch, [rows for parts in plan for rows in parts])
        for parts in plan:
            yield parts, batches
