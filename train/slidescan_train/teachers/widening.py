"""Networks to start from that have another plan than the trained one.

Widening makes a wider network with the same output: Net2WiderNet (Chen, Goodfellow and Shlens
2016). Each additional channel is a copy of a channel of the narrow network, and the next layer
divides the original's weight among the copies. The shares are random, so that the copies can learn
different features.

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


def may_enlarge(trained: Plan, plan: Plan) -> bool:
    """Whether the plans are of one EfficientNet-Lite and differ in `enlarge` alone."""
    if not isinstance(trained, LitePlan) or not isinstance(plan, LitePlan):
        return False
    return trained.model_copy(update={"enlarge": plan.enlarge}) == plan


def enlarged(trained: Network, plan: Plan) -> Network:
    """Return a network of `plan` with the weights of `trained`; `may_enlarge` says for which."""
    network = Network(plan)
    network.load_state_dict(trained.state_dict())
    return network


def may_widen(narrow: Plan, wide: Plan) -> bool:
    """Whether `wide` has the same layers and cells as `narrow`, none with fewer filters."""
    old, new = (flat(plan.model_dump(mode="json")) for plan in (narrow, wide))
    return (
        isinstance(narrow, NasnetPlan | PlainPlan)
        and old.keys() == new.keys()
        and all(old[key] == new[key] or _wider(key, old[key], new[key]) for key in old)
    )


def _wider(key: str, old: str, new: str) -> bool:
    filters = key.endswith(".filters") and "null" not in (old, new)  # null: a pool
    return filters and int(old) <= int(new)


@torch.no_grad()
def widened(narrow: Network, plan: Plan, seed: int) -> Network:
    """Return a network of `plan` with the logits of `narrow`; `may_widen` says for which plans.

    The shares are drawn with `seed`.
    """
    wide = Network(plan).to(narrow.head.classifier.weight.dtype)
    _Widening(seed).network(narrow, wide)
    return wide


class _Widening:
    """Walks through both networks from input to output.

    Channels of features are given as indices: for each channel of the wide network, the channel of
    the narrow network that it copies.
    """

    def __init__(self, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)

    def network(self, narrow: Network, wide: Network) -> None:
        colours = torch.arange(3)
        if not isinstance(narrow.body, Nasnet) or not isinstance(wide.body, Nasnet):
            features = self.chain(narrow.body, wide.body, colours)
        else:
            before = features = self.chain(narrow.body.stem, wide.body.stem, colours)
            for cells in zip(narrow.body.cells, wide.body.cells, strict=True):
                a, b = cast("Sequence[Cell]", cells)
                before, features = features, self.cell(a, b, features, before)
        self.chain(narrow.head, wide.head, features)

    def cell(self, narrow: Cell, wide: Cell, current: Tensor, previous: Tensor) -> Tensor:
        """Return the channels of the output, given those of the inputs."""
        made = self.chain(narrow.current, wide.current, current)
        self.chain(narrow.previous, wide.previous, previous)
        for steps in zip(narrow.steps, wide.steps, strict=True):
            for a, b in zip(*cast("Sequence[nn.ModuleList]", steps), strict=True):
                self.chain(a, b, made)
        filters = narrow.channels // len(narrow.output)
        return torch.cat([made + k * filters for k in range(len(narrow.output))])

    def chain(self, narrow: nn.Module, wide: nn.Module, inputs: Tensor) -> Tensor:
        """Return the output channels of consecutive layers."""
        for a, b in zip(narrow.modules(), wide.modules(), strict=True):
            if isinstance(a, nn.Conv2d) and isinstance(b, nn.Conv2d):
                inputs = self.convolution(a, b, inputs)
            elif isinstance(a, nn.BatchNorm2d):
                b.load_state_dict(
                    {k: v[inputs] if v.dim() else v for k, v in a.state_dict().items()}
                )
        return inputs

    def convolution(self, narrow: nn.Conv2d, wide: nn.Conv2d, inputs: Tensor) -> Tensor:
        if narrow.groups > 1:  # depthwise: one filter per channel
            wide.weight.copy_(narrow.weight[inputs])
            return inputs
        # The first channels are those of the narrow network, the further ones copies in turn.
        outputs = torch.arange(wide.out_channels) % narrow.out_channels
        wide.weight.copy_(narrow.weight[outputs][:, inputs] * self.shares(len(outputs), inputs))
        if narrow.bias is not None and wide.bias is not None:
            wide.bias.copy_(narrow.bias[outputs])
        return outputs

    def shares(self, outputs: int, inputs: Tensor) -> Tensor:
        """Return shares (outputs, inputs, 1, 1), which add up to 1 over the copies of an input."""
        drawn = torch.rand(outputs, len(inputs), dtype=torch.float64, generator=self.random)
        drawn += 0.5  # no share is close to 0
        total = torch.zeros(outputs, int(inputs.max()) + 1, dtype=torch.float64)
        total.index_add_(1, inputs, drawn)
        return (drawn / total[:, inputs])[:, :, None, None]
