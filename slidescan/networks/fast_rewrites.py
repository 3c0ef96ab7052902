"""Exact rewrites of a network for inference: the same arithmetic with less memory traffic.

Much of a cell's time is spent on ReLUs, crops and concatenations, each of which reads and writes a
whole feature map. `benchmarks/speed/rewrites.py` measures the gain of each rewrite, and of others
that gained nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from slidescan.networks.cells import Cell
from slidescan.networks.network import Network
from slidescan.networks.shift_and_stitch import ShiftAndStitch


def activate_before_crop(network: Network) -> None:
    """Move the crop of a separable branch behind its ReLU.

    All branches of a source then have the same ReLU, which a compiler computes once.
    """
    for branch in branches(network):
        crop, operation = branch
        if isinstance(operation, nn.Sequential):
            relu, *rest = operation
            branch[0], branch[1] = relu, nn.Sequential(crop, *rest)


def classify_by_parts(network: Network) -> None:
    """Apply the classifier to each state of the last cell, with its part of the weights, and add.

    The wide states are then not concatenated, and each has its ReLU where it is computed.
    """
    cells = [part for part in network.body.modules() if isinstance(part, Cell)]
    if not cells:
        return
    last, head = cells[-1], network.head
    relu, features, classifier = head.relu, head.features, head.classifier
    shares = classifier.weight.chunk(len(last.output), dim=1)
    last.crops = nn.ModuleList(
        nn.Sequential(crop, relu, features, pointwise(share))
        for crop, share in zip(last.crops, shares, strict=True)
    )
    adding = torch.eye(len(classifier.weight)).repeat(1, len(shares))[:, :, None, None]
    head.classifier = pointwise(adding.to(classifier.weight), classifier.bias)
    for done in ("relu", "features"):
        head.add_module(done, nn.Identity())


REWRITES: tuple[Callable[[Network], None], ...] = (activate_before_crop, classify_by_parts)
"""The rewrites that save time. They modify the network in place."""


def rewritten(network: Network | ShiftAndStitch) -> Network | ShiftAndStitch:
    """A copy in evaluation mode that gives the same logits faster; padded networks do not change.

    Its modules have other names, so it cannot load the network's weights.
    """
    made = copy.deepcopy(network).requires_grad_(False)
    inner = made.network if isinstance(made, ShiftAndStitch) else made
    for rewrite in REWRITES:
        rewrite(inner)
    return made.eval()


def branches(network: nn.Module) -> Iterator[nn.Sequential]:
    """The branches of all cells, each a crop and an operation."""
    for cell in network.modules():
        if isinstance(cell, Cell):
            for step in cell.steps:
                for branch in cast("nn.ModuleList", step):
                    yield cast("nn.Sequential", branch)


def pointwise(weight: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """A 1x1 convolution of weights (outputs, inputs, 1, 1)."""
    outputs, inputs = weight.shape[:2]
    made = nn.Conv2d(inputs, outputs, 1, bias=bias is not None).to(weight)
    made.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return made
