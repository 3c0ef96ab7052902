"""The training loop: `train` runs epochs, an epoch runs steps and ends with a validation.

One step, with its micro-batches, is `Learner.step`. Devices and precision come from Fabric.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from slidescan.patches.labelled.patches import Patches
from slidescan.statistics.ranking import Ranking, roc_area
from slidescan_train.loop.devices import repeatable, worker_count
from slidescan_train.loop.history import SCORES, Epoch, Step, column, finished
from slidescan_train.loop.learner import DivergedError, Learner, predict, tumour
from slidescan_train.loop.loader import Loader, epoch_plan, steps
from slidescan_train.loop.progress import Progress
from slidescan_train.recipe.config import TrainConfig
from slidescan_train.recipe.schedule import rate

Probabilities: TypeAlias = Mapping[str, NDArray[np.float32]]
"""P(tumour) of the patches of each validation set, by its name."""


class Recorder(Protocol):
    """Is called by the loop, on the first process only."""

    def on_step(self, step: Step, patches: int) -> None:
        """Called after each optimiser step, with its number of patches."""

    def on_epoch(self, epoch: Epoch, probabilities: Probabilities) -> None:
        """Called after each epoch."""

    def checkpoint(self) -> None:
        """Called when a checkpoint is due; the run can be resumed from here exactly."""


def train(
    learner: Learner,
    training: Patches,
    validation: Mapping[str, Patches],
    progress: Progress,
    recorder: Recorder,
) -> None:
    """Run all epochs that are left after `progress`.

    `validation` has the validation sets by name; the first decides which epoch is the best.

    Raises:
        ConfigError: the loss is not finite, or there is not enough memory.
    """
    config, fabric = learner.config, learner.fabric
    workers, pin = worker_count(config, fabric), fabric.device.type == "cuda"
    with repeatable(config), Loader(training, config.augment, config.seed, workers, pin) as loader:
        while not finished(progress.history, config.epochs, config.patience):
            run_epoch(learner, training, loader, progress, recorder)
            close_epoch(learner, training, validation, progress, recorder)


def run_epoch(
    learner: Learner, training: Patches, loader: Loader, progress: Progress, recorder: Recorder
) -> None:
    """Run the steps that are left of the current epoch."""
    config, number = learner.config, progress.epoch
    rank, world = learner.fabric.global_rank, learner.fabric.world_size
    plan = epoch_plan(len(training), config, number, world)
    todo = plan[len(progress.losses) :]
    batches = iter(loader.load(number, [rows for parts in todo for rows in parts[rank::world]]))
    learner.network.train()
    kept = time.monotonic()
    for parts in todo:
        started = time.perf_counter()
        now = rate(learner.steps / (len(plan) * config.epochs), config)
        try:
            outcome = learner.step(batches, parts, now, (config.seed, number, learner.steps))
        except DivergedError as error:
            raise _where(error, number, len(progress.losses) + 1, now, config) from error
        progress.add(outcome, time.perf_counter() - started)
        if rank == 0:
            recorder.on_step(Step(learner.steps, number, now, outcome.loss), sum(map(len, parts)))
            if time.monotonic() - kept > 60 * config.checkpoint_minutes:
                recorder.checkpoint()
                kept = time.monotonic()


def _where(
    error: DivergedError, epoch: int, step: int, now: float, config: TrainConfig
) -> DivergedError:
    return DivergedError(
        f"epoch {epoch}, step {step}: {error} at a learning rate of {now:.3g}; the last checkpoint "
        f"stays; use a learning_rate below {config.learning_rate:g}, or a lower clip"
    )


def close_epoch(
    learner: Learner,
    training: Patches,
    validation: Mapping[str, Patches],
    progress: Progress,
    recorder: Recorder,
) -> None:
    """Score the averaged weights on the validation sets, and close the epoch."""
    fabric = learner.fabric
    epoch: Epoch | None = None
    probabilities: dict[str, NDArray[np.float32]] = {}
    if fabric.global_rank == 0:
        scores = []
        for name, patches in validation.items():
            logits = predict(learner.average, patches, fabric.device)
            probabilities[name] = tumour(logits).numpy()
            scores.append(_scores(patches, logits, probabilities[name]))
        epoch = _epoch(learner, training, progress, dict(zip(validation, scores, strict=True)))
    epoch = fabric.broadcast(epoch)  # every process must know when to stop
    assert epoch
    progress.close(epoch)
    if fabric.global_rank == 0:
        recorder.on_epoch(epoch, probabilities)
        recorder.checkpoint()


def _scores(patches: Patches, logits: torch.Tensor, p: NDArray[np.float32]) -> dict[str, float]:
    """Return the scores of one validation set, with the keys `SCORES`."""
    loss = cross_entropy(logits, torch.from_numpy(patches.labels)).item()
    accuracy = float(np.mean((p >= 0.5) == patches.labels))
    return dict(zip(SCORES, (loss, accuracy, auc(patches.labels, p)), strict=True))


def _epoch(
    learner: Learner,
    training: Patches,
    progress: Progress,
    scores: Mapping[str, Mapping[str, float]],
) -> Epoch:
    config = learner.config
    (_, first), *others = scores.items()
    rows = np.concatenate(steps(len(training), config.batch, config.seed, progress.epoch))
    seen, p = training.labels[rows], np.concatenate(progress.probabilities)
    return Epoch(
        number=progress.epoch,
        learning_rate=learner.optimiser.param_groups[0]["lr"],
        training_loss=float(np.mean(progress.losses)),
        training_accuracy=float(np.mean((p >= 0.5) == seen)),
        training_auc=auc(seen, p),
        validation_loss=first["loss"],
        validation_accuracy=first["accuracy"],
        validation_auc=first["auc"],
        images_per_second=len(rows) / progress.seconds,
        waiting=progress.waited_s / progress.seconds,
        seconds=progress.seconds,
        further={column(key, name): of[key] for name, of in others for key in SCORES},
    )


def auc(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float:
    """Area under the ROC curve; NaN with one class."""
    return roc_area(*Ranking(labels, probabilities).positives())
