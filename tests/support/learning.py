"""A tiny recipe, a small data set, and functions that train on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import networks
import numpy as np
import patches
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from slidescan_train.loop.history import Epoch, Step
from slidescan_train.loop.learner import Learner
from slidescan_train.loop.progress import Progress
from slidescan_train.loop.training import Probabilities, train
from slidescan_train.recipe.config import TrainConfig

from slidescan.networks.network import Network

TINY = networks.plan("4/2 3 4/2", "R", filters=2, dense=4)
STILL: dict[str, Any] = {
    **{name: {"p": 0} for name in ("d4", "stain", "hue", "crop")},
    "one_of": {},
}
TURNS = STILL | {"d4": {"p": 1}}


def tiny(**changes: Any) -> TrainConfig:
    """A recipe that trains in less than a second; D4 is its only augmentation."""
    kept = {"plan": TINY, "augment": TURNS, "epochs": 1, "batch": 16, "micro_batch": 16}
    rates = {"learning_rate": 0.01, "precision": "32-true", "seed": 5}
    return TrainConfig.model_validate(kept | rates | changes)


TRAINING, VALIDATION = patches.split(patches.make(120))


def fabric(config: TrainConfig) -> Fabric:
    made = Fabric(accelerator="cpu", devices=1, precision=config.precision)
    made.launch()
    return made


def learner(config: TrainConfig, **more: Any) -> Learner:
    return Learner(config, fabric(config), **more)


@dataclass
class Kept:
    """A Recorder that keeps everything in memory."""

    steps: list[Step] = field(default_factory=list)
    patches: list[int] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    probabilities: list[NDArray[np.float32]] = field(default_factory=list)
    checkpoints: int = 0

    def on_step(self, step: Step, patches: int) -> None:
        self.steps.append(step)
        self.patches.append(patches)

    def on_epoch(self, epoch: Epoch, probabilities: Probabilities) -> None:
        self.epochs.append(epoch)
        self.probabilities.append(probabilities["split"])

    def checkpoint(self) -> None:
        self.checkpoints += 1


def fit(config: TrainConfig, **more: Any) -> tuple[Learner, Kept]:
    """Train on the small data set to the last epoch."""
    made, kept = learner(config, **more), Kept()
    train(made, TRAINING, {"split": VALIDATION}, Progress(), kept)
    return made, kept


def weights(network: Network) -> dict[str, torch.Tensor]:
    """Parameters and BatchNorm statistics, without the count of batches."""
    return {k: v.clone() for k, v in network.state_dict().items() if v.is_floating_point()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[k] - other[k]).detach().abs().max()) for k in one)
