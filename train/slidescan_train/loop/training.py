"""The training loop, visible from top to bottom; devices and precision come from Fabric."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from slidescan.errors import ConfigError
from slidescan.patches.labelled.patches import Patches
from slidescan.statistics.ranking import Ranking, roc_area
from slidescan.tools.hardware import cores, keep_freed_memory
from slidescan_train.loop.history import Epoch, Step, finished
from slidescan_train.loop.learner import DivergedError, Learner, Outcome, predict, tumour
from slidescan_train.loop.loader import Loader, epoch_plan, steps
from slidescan_train.recipe.config import TrainConfig
from slidescan_train.recipe.schedule import rate


class Recorder(Protocol):
    """Is called by the loop, on the first process only."""

    def on_step(self, step: Step, patches: int) -> None:
        """After each optimiser step of so many patches."""

    def on_epoch(self, epoch: Epoch, probabilities: NDArray[np.float32]) -> None:
        """After each epoch, with P(tumour) of the validation patches."""

    def checkpoint(self) -> None:
        """A good moment to keep everything: what comes next is made from it exactly."""


@dataclass
class Progress:
    """How far a run is; with the learner's state, all that a resumed run needs."""

    history: list[Epoch] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Of the steps of the epoch under way."""
    probabilities: list[NDArray[np.float32]] = field(default_factory=list)
    """Of the patches of those steps."""
    seconds: float = 0.0
    """Spent on them."""
    waited_s: float = 0.0

    @property
    def epoch(self) -> int:
        """The epoch under way, from 1."""
        return len(self.history) + 1

    def add(self, outcome: Outcome, seconds: float) -> None:
        self.losses.append(outcome.loss)
        self.probabilities.append(outcome.probabilities)
        self.seconds += seconds
        self.waited_s += outcome.waited_s

    def close(self, epoch: Epoch) -> None:
        self.history.append(epoch)
        self.losses, self.probabilities, self.seconds, self.waited_s = [], [], 0.0, 0.0

    def tensors(self) -> dict[str, Tensor]:
        """One tensor a step: probabilities of as many patches as it had."""
        return {f"progress.{i}": torch.from_numpy(p) for i, p in enumerate(self.probabilities)}

    def numbers(self) -> dict[str, Any]:
        history = [asdict(epoch) for epoch in self.history]
        times = {"seconds": self.seconds, "waited_s": self.waited_s}
        return {"history": history, "losses": self.losses, **times}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> Progress:
        return cls(
            [Epoch(**epoch) for epoch in numbers["history"]],
            numbers["losses"],
            [tensors[f"progress.{i}"].numpy() for i in range(len(numbers["losses"]))],
            numbers["seconds"],
            numbers["waited_s"],
        )


def make_fabric(config: TrainConfig, device: str = "auto", threads: int | None = None) -> Fabric:
    """One process, or all those that torchrun started, each with its device.

    `device` is cpu, cuda, or auto, which is cuda where there is a device. `threads` is for each
    process; without it they share the processors. Raises `ConfigError` where devices are missing.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    world = int(os.environ.get("WORLD_SIZE", 1))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and torch.cuda.device_count() < local:
        raise ConfigError(
            f"--device cuda: torch finds {torch.cuda.device_count()} CUDA devices for {local} "
            "processes here; use --device cpu, or fewer processes"
        )
    keep_freed_memory()
    torch.set_num_threads(threads or max(1, cores() // local))
    # It reports the precision, which the configuration says already.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=device,
        devices=local,
        num_nodes=world // local,
        # Buffers are BatchNorm's statistics, which the learner joins itself.
        strategy=DDPStrategy(broadcast_buffers=False) if world > 1 else "auto",
        precision=config.precision,
    )
    fabric.launch()
    return fabric


def worker_count(config: TrainConfig, fabric: Fabric) -> int:
    """Processes that prepare batches for one that trains; 0 for a thread of its own.

    On a CPU a thread suffices, and the processors are for the network; a GPU leaves them free.
    """
    if config.workers is not None:
        return config.workers
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return 0 if fabric.device.type == "cpu" else max(1, cores() // local)


@contextmanager
def repeatable(config: TrainConfig) -> Iterator[None]:
    """On a GPU: kernels that give the same weights again, where that is asked for."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config.deterministic)
    torch.backends.cudnn.benchmark = not config.deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def train(
    learner: Learner, training: Patches, validation: Patches, progress: Progress, recorder: Recorder
) -> None:
    """Train on from `progress` to the end.

    Raises `ConfigError` where the loss is no longer finite or memory does not suffice.
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
    """What is left of an epoch's steps."""
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
        f"stays; take a learning_rate below {config.learning_rate:g}, or a lower clip"
    )


def close_epoch(
    learner: Learner,
    training: Patches,
    validation: Patches,
    progress: Progress,
    recorder: Recorder,
) -> None:
    """Score the average on the held-out patches, on the first process, and tell all."""
    fabric = learner.fabric
    epoch: Epoch | None = None
    if fabric.global_rank == 0:
        logits = predict(learner.average, validation, fabric.device)
        probabilities = tumour(logits).numpy()
        loss = cross_entropy(logits, torch.from_numpy(validation.labels)).item()
        epoch = _epoch(learner, training, validation, progress, probabilities, loss)
    epoch = fabric.broadcast(epoch)  # the others learn from it when to stop
    assert epoch
    progress.close(epoch)
    if fabric.global_rank == 0:
        recorder.on_epoch(epoch, probabilities)
        recorder.checkpoint()


def _epoch(
    learner: Learner,
    training: Patches,
    validation: Patches,
    progress: Progress,
    probabilities: NDArray[np.float32],
    loss: float,
) -> Epoch:
    config = learner.config
    rows = np.concatenate(steps(len(training), config.batch, config.seed, progress.epoch))
    seen, p = training.labels[rows], np.concatenate(progress.probabilities)
    return Epoch(
        number=progress.epoch,
        learning_rate=learner.optimiser.param_groups[0]["lr"],
        training_loss=float(np.mean(progress.losses)),
        training_accuracy=float(np.mean((p >= 0.5) == seen)),
        training_auc=auc(seen, p),
        validation_loss=loss,
        validation_accuracy=float(np.mean((probabilities >= 0.5) == validation.labels)),
        validation_auc=auc(validation.labels, probabilities),
        images_per_second=len(rows) / progress.seconds,
        waiting=progress.waited_s / progress.seconds,
        seconds=progress.seconds,
    )


def auc(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float:
    """Area under the ROC curve; NaN with one class."""
    return roc_area(*Ranking(labels, probabilities).positives())
