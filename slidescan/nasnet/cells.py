"""One interpreter that builds any cell from its genotype; every operation is valid."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from slidescan.geometry import Field
from slidescan.nasnet.genotype import FIRST_STEP as INPUTS
from slidescan.nasnet.genotype import Branch, Genotype, Kind, layout


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with the constants of NASNet's reference implementation."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.1)


class Crop(nn.Module):
    """Cut `cells` off every side."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        if cells < 0:
            raise ValueError(f"cannot crop {cells} cells")
        self.cells = cells

    def forward(self, x: Tensor) -> Tensor:
        n = self.cells
        return x[:, :, n:-n, n:-n] if n else x

    def extra_repr(self) -> str:
        return str(self.cells)


def _separable(channels: int, kernel: int, stride: int, count: int) -> nn.Sequential:
    """`count` times ReLU, depthwise, pointwise, BN; only the first has the stride."""
    layers: list[nn.Module] = []
    for i in range(count):
        layers += [
            nn.ReLU(),
            nn.Conv2d(
                channels, channels, kernel, stride if i == 0 else 1, groups=channels, bias=False
            ),
            nn.Conv2d(channels, channels, 1, bias=False),
            norm(channels),
        ]
    return nn.Sequential(*layers)


def _branch(branch: Branch, crop: int, stride: int, channels: int, separables: int) -> nn.Module:
    op = branch.op
    stride = stride if branch.source < INPUTS else 1
    match op.kind:
        case Kind.SEPARABLE:
            made: nn.Module = _separable(channels, op.kernel, stride, separables)
        case Kind.AVERAGE:
            made = nn.AvgPool2d(op.kernel, stride)
        case Kind.MAX:
            made = nn.MaxPool2d(op.kernel, stride)
        case Kind.IDENTITY:
            made = nn.Identity()
    return nn.Sequential(Crop(crop), made)


def _align(seen: Field, target: Field) -> tuple[nn.Module, Field]:
    """Bring a state with field `seen` onto the grid of `target`, centred on the same pixels.

    A state of half the stride is averaged 3x3 at stride 2: the published factorised reduction
    samples positions 2i and 2i + 1, whose centre lies half a cell off the odd kernels beside it.
    """
    pool: list[nn.Module] = []
    behind = seen
    if seen.stride != target.stride:
        pool = [nn.AvgPool2d(3, target.stride // seen.stride)]
        behind = seen.then(3, target.stride // seen.stride)
    cells, rest = divmod(target.size - behind.size, 2 * seen.stride)
    if rest or cells < 0 or behind.stride != target.stride:
        raise ValueError(f"{seen} cannot be aligned with {target}")
    return nn.Sequential(Crop(cells), *pool), target


class _Adjust(nn.Module):
    """ReLU, 1x1 convolution and BN: a cell's input brought to the cell's filters and grid."""

    def __init__(self, channels: int, filters: int, seen: Field, target: Field) -> None:
        super().__init__()
        self.align, _ = _align(seen, target)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(channels, filters, 1, bias=False)
        self.bn = norm(filters)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(self.align(self.relu(x))))
        return out


class Cell(nn.Module):
    """A NASNet block without padding.

    Parameters
    ----------
    genotype, filters, separables
        What to build, how wide, and with how many convolutions per separable branch.
    current, previous
        (channels, field) of the outputs of the last cell and the one before it.

    `field` and `channels` describe the output.
    """

    def __init__(
        self,
        genotype: Genotype,
        filters: int,
        separables: int,
        current: tuple[int, Field],
        previous: tuple[int, Field],
    ) -> None:
        super().__init__()
        crops = layout(genotype, separables)
        seen = current[1]
        self.sources = tuple(tuple(b.source for b in step) for step in genotype.steps)
        self.output = genotype.output
        self.field = seen.then(2 * crops.margin + 1, genotype.stride)
        self.channels = filters * len(genotype.output)
        self.current = _Adjust(current[0], filters, seen, seen)
        self.previous = _Adjust(previous[0], filters, previous[1], seen)
        self.steps = nn.ModuleList(
            nn.ModuleList(
                _branch(branch, crop, genotype.stride, filters, separables)
                for branch, crop in zip(step, step_crops, strict=True)
            )
            for step, step_crops in zip(genotype.steps, crops.branches, strict=True)
        )
        self.crops = nn.ModuleList(Crop(n) for n in crops.output)

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        states = [self.current(current), self.previous(previous)]
        for step, (a, b) in zip(self.steps, self.sources, strict=True):
            left, right = cast("nn.ModuleList", step)
            states.append(left(states[a]) + right(states[b]))
        return torch.cat(
            [crop(states[i]) for crop, i in zip(self.crops, self.output, strict=True)], dim=1
        )
