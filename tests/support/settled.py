"""Random networks whose probabilities vary from patch to patch.

BatchNorm's statistics are those of given pixels. With random statistics the mean of every channel
is far larger than its variation, and the differences between patches are lost in rounding.
"""

from __future__ import annotations

from typing import Any

import networks
import torch
from numpy.typing import NDArray
from torch import nn

from slidescan.networks.network import Network
from slidescan.networks.plan import Plan


def settled(plan: Plan, pixels: NDArray[Any], spread: float = 0.3) -> Network:
    """A float32 network whose log odds over `pixels`, RGB (N, H, W, 3), have mean 0 and standard
    deviation `spread`."""
    made = networks.network(plan).float()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1
    x = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float()
    classifier = made.head.classifier
    assert isinstance(classifier, nn.Conv2d)
    assert classifier.bias is not None
    with torch.no_grad():
        made.train()(x)
        odds = _odds(made.eval(), x)
        classifier.weight.mul_(spread / odds.std())
        classifier.bias.zero_()
        classifier.bias[1] -= _odds(made, x).mean()
    return made


def _odds(network: Network, x: torch.Tensor) -> torch.Tensor:
    logits = network(x)
    odds: torch.Tensor = logits[:, 1] - logits[:, 0]
    return odds
