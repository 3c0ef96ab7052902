"""The network, its average and the optimiser, and one optimiser step.

A step gives the same result however its patches are divided into micro-batches and processes. Only
BatchNorm depends on the division, as it normalises within a micro-batch.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from slidescan.errors import ConfigError
from slidescan.networks.network import Network, probability
from slidescan.patches.labelled.patches import Patches
from slidescan_train.loop.batch_norm import Statistics, total
from slidescan_train.loop.depthwise import keep_float32
from slidescan_train.loop.devices import memory_errors, precision_of
from slidescan_train.loop.dropout import HeadDropout
from slidescan_train.loop.loader import Batch
from slidescan_train.recipe.augment_config import LABELLED_PX
from slidescan_train.recipe.config import TrainConfig
from slidescan_train.recipe.objective import cross_entropy, distillation, mix, soft_targets
from slidescan_train.teachers.teacher import Teacher, opinion


class DivergedError(ConfigError):
    """The loss or its gradient is not finite."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a step."""

    loss: float
    probabilities: NDArray[np.float32]
    """P(tumour) of the augmented patches, in the order of the step's rows."""
    waited_s: float
    """Time spent waiting for batches."""


class Learner:
    """The state of a training, and its optimiser step."""

    def __init__(
        self,
        config: TrainConfig,
        fabric: Fabric,
        teachers: Sequence[Teacher] = (),
        start: Network | None = None,
    ) -> None:
        if not (teachers or config.labelled):
            raise ConfigError(
                f"augment.one_of.translation.px={config.augment.one_of.translation.px}: without a "
                f"teacher labels must hold, so at most {LABELLED_PX}; lower it, or add --teacher"
            )
        self.config, self.fabric, self.teachers = config, fabric, teachers
        torch.manual_seed(config.seed)
        self.network = start.uncalibrated() if start else Network(config.plan)
        self.network.requires_grad_(True).train()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).to(fabric.device).eval().requires_grad_(False)
        self.optimiser = make_optimiser(self.network, config)
        # After the copy: the averaged network is evaluated, without dropout and in float32.
        self._dropout = HeadDropout(self.network, config.dropout)
        if fabric.device.type == "cpu" and precision_of(fabric) == "bf16-mixed":
            keep_float32(self.network)
        compiled: Any = torch.compile(self.network) if config.compile else self.network
        with warnings.catch_warnings():
            # Fabric uses an argument that torch has renamed.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers")
            self.model, self._stepper = fabric.setup(compiled, self.optimiser)
        self._statistics = Statistics(self.network, fabric)
        self.steps = 0

    def step(
        self,
        batches: Iterator[Batch],
        parts: Sequence[NDArray[np.intp]],
        rate: float,
        draw: Sequence[int],
    ) -> Outcome:
        """Take one optimiser step.

        `parts` are the rows of its micro-batches, of which `batches` gives every n-th to the n
        processes in turn. `draw` seeds mixup and dropout.

        Raises:
            DivergedError: the loss or its gradient is not finite.
            ConfigError: there is not enough memory.
        """
        size = sum(map(len, parts))
        offsets = np.cumsum([0, *map(len, parts)])
        mine = range(self.fabric.global_rank, len(parts), self.fabric.world_size)
        told = torch.zeros(1 + size, device=self.fabric.device)  # the loss, and each probability
        waited = 0.0
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self._statistics.begin()
        with memory_errors(self.config):
            for i in mine:
                started = time.perf_counter()
                batch = next(batches)
                waited += time.perf_counter() - started
                with self.fabric.no_backward_sync(self.model, enabled=i != mine[-1]):
                    loss, p = self._learn(batch, size, np.random.default_rng((*draw, i)))
                told[0] += loss
                told[1 + offsets[i] : 1 + offsets[i + 1]] = p
                self._statistics.collect()
        outcome = total(self.fabric, told).cpu().numpy()
        self._statistics.end(len(parts))
        self._move(float(outcome[0]))
        return Outcome(float(outcome[0]), outcome[1:], waited)

    def _learn(self, batch: Batch, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return this micro-batch's share of the step's loss and its probabilities."""
        x = to_input(batch.pixels, self.fabric.device)
        labels = torch.as_tensor(batch.labels, device=self.fabric.device)
        targets = soft_targets(labels, self.config.label_smoothing)
        if self.config.mixup:
            x, targets = mix(x, targets, self.config.mixup, rng)
        self._dropout.draw(len(x), rng, self.fabric.device)
        logits = self.model(x)[:, :, 0, 0].float()
        loss = cross_entropy(logits, targets)
        if self.teachers:
            weight = self.config.distil.weight
            with self.fabric.autocast():
                told = opinion(self.teachers, x)
            loss = (1 - weight) * loss + weight * distillation(logits, told, self.config.distil)
        share = loss * (len(labels) / size)
        # Gradients are averaged over the processes, and a share is of the whole step.
        self.fabric.backward(share * self.fabric.world_size)
        return share.detach(), tumour(logits.detach())

    def _move(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss}")
        try:
            self.fabric.clip_gradients(
                self.model,
                self._stepper,
                max_norm=self.config.clip or math.inf,
                # In half precision an overflow is usual: the scaler skips the step.
                error_if_nonfinite=self.config.precision != "16-mixed",
            )
        except RuntimeError as error:
            raise DivergedError("a gradient is not finite") from error
        self._stepper.step()
        self._stepper.zero_grad()
        self.steps += 1
        follow(
            self.average, self.network, min(self.config.ema, (1 + self.steps) / (10 + self.steps))
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that `restore` needs, by name."""
        moments = self.optimiser.state_dict()["state"]
        return {
            **{f"network.{k}": v for k, v in self.network.state_dict().items()},
            **{f"average.{k}": v for k, v in self.average.state_dict().items()},
            **{
                f"optimiser.{number}.{key}": value
                for number, state in moments.items()
                for key, value in state.items()
                if value is not None
            },
        }

    def numbers(self) -> dict[str, Any]:
        """Return the rest that `restore` needs: steps, and the loss scale of half precision."""
        return {"steps": self.steps, "precision": self._precision.state_dict()}

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Restore the state from which `tensors` and `numbers` were taken."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            part, _, key = name.partition(".")
            if part == "optimiser":
                number, _, key = key.partition(".")
                moments.setdefault(int(number), {})[key] = value
            elif part in parts:
                parts[part][key] = value
        self.network.load_state_dict(parts["network"])
        self.average.load_state_dict(parts["average"])
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.steps = numbers["steps"]
        self._precision.load_state_dict(numbers["precision"])

    @property
    def _precision(self) -> Any:
        return self.fabric.strategy.precision


def make_optimiser(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Make the optimiser: weight decay on convolution weights, none on BatchNorm and biases."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, config.learning_rate, betas=(config.momentum, 0.999))


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Update the exponential moving average of the parameters and BatchNorm's statistics."""
    pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
    floating = [pair for pair in pairs if pair[0].dtype.is_floating_point]
    old, new = map(list, zip(*floating, strict=True))
    torch._foreach_lerp_(old, new, 1 - decay)
    for counted, now in itertools.filterfalse(lambda pair: pair[0].is_floating_point(), pairs):
        counted.copy_(now)


def to_input(pixels: NDArray[np.uint8] | Tensor, device: torch.device) -> Tensor:
    """Turn pixels (N, H, W, 3) uint8 into (N, 3, H, W) float32, channels last in memory."""
    return torch.as_tensor(pixels).to(device, non_blocking=True).permute(0, 3, 1, 2).float()


def tumour(logits: Tensor) -> Tensor:
    """Return P(tumour) (N,) of logits (N, 2)."""
    return probability(logits[:, :, None, None])[:, 0, 0]


@torch.inference_mode()
def predict(network: nn.Module, patches: Patches, device: torch.device, batch: int = 256) -> Tensor:
    """Return logits (N, 2), on the CPU, of patches without augmentation, in float32."""
    return torch.cat(
        [
            network(to_input(patches.pixels(slice(i, i + batch)), device))[:, :, 0, 0].cpu()
            for i in range(0, len(patches), batch)
        ]
    )
