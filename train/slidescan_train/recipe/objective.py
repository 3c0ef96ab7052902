"""The loss: cross-entropy with soft targets, mixup, and distillation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (torch's own idiom)

from slidescan.networks.heads import CLASSES
from slidescan_train.recipe.config import DistilConfig


def soft_targets(labels: Tensor, smoothing: float) -> Tensor:
    """Turn labels (N,) into probabilities (N, 2) with label smoothing."""
    return F.one_hot(labels, CLASSES).float() * (1 - smoothing) + smoothing / CLASSES


def mix(
    x: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mix each patch and its target with another of the batch (mixup, Zhang et al. 2018).

    The shares are drawn from Beta(alpha, alpha).
    """
    share = torch.from_numpy(rng.beta(alpha, alpha, len(x)).astype(np.float32)).to(x.device)
    other = torch.from_numpy(rng.permutation(len(x))).to(x.device)
    of_x, of_targets = share.view(-1, 1, 1, 1), share.view(-1, 1)
    return torch.lerp(x[other], x, of_x), torch.lerp(targets[other], targets, of_targets)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits (N, 2) with probabilities (N, 2)."""
    return -(targets * logits.log_softmax(1)).sum(1).mean()


def distillation(logits: Tensor, teacher: Tensor, config: DistilConfig) -> Tensor:
    """Return the KL divergence from the teacher at a temperature; both give logits (N, 2)."""
    heat = config.temperature
    divergence = F.kl_div(
        (logits / heat).log_softmax(1),
        (teacher / heat).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * heat**2
