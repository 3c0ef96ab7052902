"""Random networks that say something: their statistics are those of the pixels they are shown.

With random statistics the mean of every channel dwarfs its variation, and what tells one patch from
another is lost in rounding.
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
    """In float32; over `pixels`, RGB (N, H, W, 3), log odds have mean 0 and deviation `spread`."""
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
