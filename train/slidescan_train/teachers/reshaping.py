"""Networks to start from that have another plan than the trained one.

A wider network begins with the output of the narrow one: Net2WiderNet (Chen, Goodfellow and Shlens
2016). Each additional channel is a copy of a channel of the narrow network, and the next layer
divides the original's weight among the copies. The shares are random, so that the copies can learn
different features.

A narrower dense layer keeps the channels that the batch normalisation after it scales most, as in
network slimming (Liu et al. 2017, arXiv 1708.06519). Training has to make up for the others.

An EfficientNet-Lite that was trained on patches as they are may go on with enlarged ones, as in
progressive resizing (Touvron et al. 2019, arXiv 1906.06423, on what a change of size does).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from slidescan.networks.cells import Cell
from slidescan.networks.network import Network
from slidescan.networks.plan import LitePlan, NasnetPlan, PlainPlan, Plan
from slidescan.networks.valid import Nasnet
from slidescan.tools.settings_diff import flat


@torch.no_grad()
def reshaped(trained: Network, plan: Plan, seed: int) -> Network | None:
    """Return a network of `plan` with the weights of `trained`, or None where there is no way.

    There is one if the plans are equal; if they have the same layers and cells, and no cell of
    `plan` has fewer filters; or if they are one EfficientNet-Lite with another `enlarge`. If no
    layer has fewer filters, the logits are those of `trained`. `seed` draws the shares of copies.
    """
    if trained.plan == plan:
        return trained
    if _enlarges(trained.plan, plan):
        made = Network(plan)
        made.load_state_dict(trained.state_dict())
        return made
    if _changes_filters(trained.plan, plan):
        made = Network(plan).to(trained.head.classifier.weight.dtype)
        _Transfer(seed).network(trained, made)
        return made
    return None


def _enlarges(old: Plan, new: Plan) -> bool:
    if not isinstance(old, LitePlan) or not isinstance(new, LitePlan):
        return False
    return old.model_copy(update={"enlarge": new.enlarge}) == new


def _changes_filters(old: Plan, new: Plan) -> bool:
    settings, wanted = (flat(plan.model_dump(mode="json")) for plan in (old, new))
    return (
        isinstance(old, NasnetPlan | PlainPlan)
        and settings.keys() == wanted.keys()
        and all(
            settings[key] == wanted[key] or _may_have(key, settings[key], wanted[key])
            for key in settings
        )
    )


def _may_have(key: str, old: str, new: str) -> bool:
    if not key.endswith(".filters") or "null" in (old, new):  # null: a pool
        return False
    # The branches of a cell are added up, so all would have to keep the same channels.
    return not key.startswith("cells.") or int(old) <= int(new)


class _Transfer:
    """Walks through both networks from input to output.

    Channels of features are given as indices: for each channel of the new network, the channel of
    the old one that it copies.
    """

    def __init__(self, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)

    def network(self, old: Network, new: Network) -> None:
        colours = torch.arange(3)
        if not isinstance(old.body, Nasnet) or not isinstance(new.body, Nasnet):
            features = self.chain(old.body, new.body, colours)
        else:
            before = features = self.chain(old.body.stem, new.body.stem, colours)
            for cells in zip(old.body.cells, new.body.cells, strict=True):
                a, b = cast("Sequence[Cell]", cells)
                before, features = features, self.cell(a, b, features, before)
        self.chain(old.head, new.head, features)

    def cell(self, old: Cell, new: Cell, current: Tensor, previous: Tensor) -> Tensor:
        """Return the channels of the output, given those of the inputs."""
        made = self.chain(old.current, new.current, current)
        self.chain(old.previous, new.previous, previous)
        for steps in zip(old.steps, new.steps, strict=True):
            for a, b in zip(*cast("Sequence[nn.ModuleList]", steps), strict=True):
                self.chain(a, b, made)
        filters = old.channels // len(old.output)
        return torch.cat([made + k * filters for k in range(len(old.output))])

    def chain(self, old: nn.Module, new: nn.Module, inputs: Tensor) -> Tensor:
        """Return the output channels of consecutive layers."""
        layers = list(old.modules())
        for a, b, after in zip(layers, new.modules(), [*layers[1:], None], strict=True):
            if isinstance(a, nn.Conv2d) and isinstance(b, nn.Conv2d):
                inputs = self.convolution(a, b, after, inputs)
            elif isinstance(a, nn.BatchNorm2d):
                b.load_state_dict(
                    {k: v[inputs] if v.dim() else v for k, v in a.state_dict().items()}
                )
        return inputs

    def convolution(
        self, old: nn.Conv2d, new: nn.Conv2d, after: nn.Module | None, inputs: Tensor
    ) -> Tensor:
        if old.groups > 1:  # depthwise: one filter per channel
            new.weight.copy_(old.weight[inputs])
            return inputs
        # The first channels are those of the old network, the further ones copies in turn.
        outputs = torch.arange(new.out_channels) % old.out_channels
        if new.out_channels < old.out_channels:
            scales = cast("nn.BatchNorm2d", after).weight.abs()
            outputs = scales.topk(new.out_channels).indices.sort().values
        new.weight.copy_(old.weight[outputs][:, inputs] * self.shares(len(outputs), inputs))
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias[outputs])
        return outputs

    def shares(self, outputs: int, inputs: Tensor) -> Tensor:
        """Return shares (outputs, inputs, 1, 1), which add up to 1 over the copies of an input."""
        drawn = torch.rand(outputs, len(inputs), dtype=torch.float64, generator=self.random)
        drawn += 0.5  # no share is close to 0
        total = torch.zeros(outputs, int(inputs.max()) + 1, dtype=torch.float64)
        total.index_add_(1, inputs, drawn)
        return (drawn / total[:, inputs])[:, :, None, None]
