"""A wider network that gives what a trained narrower one gives, to start from.

Net2WiderNet (Chen, Goodfellow and Shlens 2016): a channel beyond the narrow network's is a copy of
one of those, and what reads the copies shares the weight of the original out among them. The shares
are drawn at random, so that copies learn different things.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from slidescan.networks.cells import Cell
from slidescan.networks.network import Network
from slidescan.networks.plan import NasnetPlan, PlainPlan, Plan
from slidescan.networks.valid import Nasnet
from slidescan.tools.settings_diff import flat


def may_widen(narrow: Plan, wide: Plan) -> bool:
    """Whether `wide` has the layers and cells of `narrow`, none of them with fewer filters."""
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
    """A network of `plan` that gives the logits of `narrow`; `may_widen` says for which plans.

    `seed` draws the shares.
    """
    wide = Network(plan).to(narrow.head.classifier.weight.dtype)
    _Widening(seed).network(narrow, wide)
    return wide


class _Widening:
    """Goes through both networks as the pixels do.

    The channels of a map of features are known as numbers: which of the narrow network's each of
    the wide one's is a copy of.
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
        """The channels of its output, of those of its inputs."""
        made = self.chain(narrow.current, wide.current, current)
        self.chain(narrow.previous, wide.previous, previous)
        for steps in zip(narrow.steps, wide.steps, strict=True):
            for a, b in zip(*cast("Sequence[nn.ModuleList]", steps), strict=True):
                self.chain(a, b, made)
        filters = narrow.channels // len(narrow.output)
        return torch.cat([made + k * filters for k in range(len(narrow.output))])

    def chain(self, narrow: nn.Module, wide: nn.Module, inputs: Tensor) -> Tensor:
        """Of layers that follow each other, the channels that come out."""
        for a, b in zip(narrow.modules(), wide.modules(), strict=True):
            if isinstance(a, nn.Conv2d) and isinstance(b, nn.Conv2d):
                inputs = self.convolution(a, b, inputs)
            elif isinstance(a, nn.BatchNorm2d):
                b.load_state_dict(
                    {k: v[inputs] if v.dim() else v for k, v in a.state_dict().items()}
                )
        return inputs

    def convolution(self, narrow: nn.Conv2d, wide: nn.Conv2d, inputs: Tensor) -> Tensor:
        if narrow.groups > 1:  # depthwise: a channel of its own for each
            wide.weight.copy_(narrow.weight[inputs])
            return inputs
        # The first channels are the narrow network's own, further ones their copies, in turn.
        outputs = torch.arange(wide.out_channels) % narrow.out_channels
        wide.weight.copy_(narrow.weight[outputs][:, inputs] * self.shares(len(outputs), inputs))
        if narrow.bias is not None and wide.bias is not None:
            wide.bias.copy_(narrow.bias[outputs])
        return outputs

    def shares(self, outputs: int, inputs: Tensor) -> Tensor:
        """(outputs, inputs, 1, 1); over the copies of one input they add up to 1."""
        drawn = torch.rand(outputs, len(inputs), dtype=torch.float64, generator=self.random)
        drawn += 0.5  # none gets next to nothing
        total = torch.zeros(outputs, int(inputs.max()) + 1, dtype=torch.float64)
        total.index_add_(1, inputs, drawn)
        return (drawn / total[:, inputs])[:, :, None, None]
