"""The training loop, visible from top to bottom; devices and precision come from Fabric."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own idiom)

from slidescan.engines.memory import keep_freed_memory
from slidescan.errors import ConfigError
from slidescan.nasnet import Network
from slidescan.nasnet.network import probability
from slidescan_train.augment import batches
from slidescan_train.config import TrainConfig
from slidescan_train.data import Patches

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch came to; scores are of the averaged weights on the validation patches."""

    number: int
    loss: float
    auc: float
    accuracy: float
    nll: float
    images_per_second: float


def train(
    config: TrainConfig,
    training: Patches,
    validation: Patches,
    on_step: Callable[[float], None],
    on_epoch: Callable[[Epoch, Network], None],
) -> None:
    """Train; `on_epoch` is given the averaged network to keep or to drop.

    `on_step` gets the loss of each micro-batch. Raises `ConfigError` where it is no longer finite.
    """
    keep_freed_memory()
    torch.manual_seed(config.seed)
    # It reports the precision, which the configuration says already.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(accelerator="auto", devices=1, precision=config.precision)
    network = Network(config.plan)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network).to(fabric.device).eval().requires_grad_(False)
    model, optimiser = fabric.setup(
        network, torch.optim.AdamW(groups(network, config.weight_decay))
    )

    per_epoch = math.ceil((len(training) // min(config.batch, len(training))) / config.accumulate)
    total = per_epoch * config.epochs
    step = 0
    for number in range(1, config.epochs + 1):
        started, losses = time.perf_counter(), []
        model.train()
        for micro in accumulated(
            batches(training, config.augment, config.batch, config.seed, number), config.accumulate
        ):
            for group in optimiser.param_groups:
                group["lr"] = rate(step / total, config)
            for i, (pixels, labels) in enumerate(micro):
                with fabric.no_backward_sync(model, enabled=i + 1 < len(micro)):
                    logits = model(to_input(pixels, fabric.device))[:, :, 0, 0]
                    loss = F.cross_entropy(
                        logits.float(),
                        torch.from_numpy(labels).to(fabric.device),
                        label_smoothing=config.label_smoothing,
                    )
                    fabric.backward(loss / len(micro))
                losses.append(loss.item())
                if not math.isfinite(losses[-1]):
                    raise ConfigError(
                        f"epoch {number}: the loss is {losses[-1]}; take a learning_rate below "
                        f"{config.learning_rate:g}; the last finished epoch stays"
                    )
                on_step(losses[-1])
            fabric.clip_gradients(
                model,
                optimiser,
                max_norm=config.clip,
                # In half precision an overflow is usual: the scaler skips the step.
                error_if_nonfinite=config.precision != "16-mixed",
            )
            optimiser.step()
            optimiser.zero_grad()
            step += 1
            update(average, network, min(config.ema, (1 + step) / (10 + step)))
        seconds = time.perf_counter() - started
        seen = len(losses) * min(config.batch, len(training))
        scores = score(average, validation, fabric.device)
        on_epoch(
            Epoch(number, float(np.mean(losses)), *scores, images_per_second=seen / seconds),
            average,
        )


def groups(network: nn.Module, decay: float) -> list[dict[str, object]]:
    """Parameter groups: weight decay on convolution weights, none on BatchNorm and biases."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def rate(done: float, config: TrainConfig) -> float:
    """Learning rate after a share `done` of all steps: linear warm-up, then a cosine to zero."""
    if done < config.warm_up:
        return config.learning_rate * (done / config.warm_up + 1e-3)
    left = (1 - done) / (1 - config.warm_up)
    return config.learning_rate * 0.5 * (1 - math.cos(math.pi * left))


def accumulated(source: Iterator[T], count: int) -> Iterator[list[T]]:
    """Micro-batches in groups of `count`, the last group as long as there are any."""
    group: list[T] = []
    for item in source:
        group.append(item)
        if len(group) == count:
            yield group
            group = []
    if group:
        yield group


def to_input(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32, channels last in memory."""
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float()


@torch.no_grad()
def update(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Exponential moving average of the parameters and of BatchNorm's statistics."""
    source = network.state_dict()
    for name, value in average.state_dict().items():
        if value.dtype.is_floating_point:
            value.lerp_(source[name].to(value.dtype), 1 - decay)
        else:
            value.copy_(source[name])


@torch.inference_mode()
def score(
    network: nn.Module, patches: Patches, device: torch.device, batch: int = 256
) -> tuple[float, float, float]:
    """(ROC AUC, accuracy at 0.5, negative log-likelihood) on `patches`, unaugmented."""
    logits = torch.cat(
        [
            network(to_input(patches.pixels[i : i + batch], device))[:, :, 0, 0].cpu()
            for i in range(0, len(patches), batch)
        ]
    )
    p = probability(logits[:, :, None, None])[:, 0, 0].numpy()
    nll = F.cross_entropy(logits, torch.from_numpy(patches.labels)).item()
    return (
        float(roc_auc_score(patches.labels, p)),
        float(np.mean((p >= 0.5) == patches.labels)),
        nll,
    )
