"""Builds the cells of NASNet from their genotypes; no operation pads."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from slidescan.geometry import Field
from slidescan.networks.genotype import FIRST_STEP as INPUTS
from slidescan.networks.genotype import Branch, Genotype, Kind, crops, needs


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


def _onto(seen: Field, target: Field) -> tuple[nn.Module, Field]:
    """The layer that brings a state with field `seen` to the grid of `target`, and its field.

    A state of half the stride is averaged 3x3 at stride 2. The published factorised reduction
    samples positions 2i and 2i + 1; their centre is half a cell off that of the odd kernels.
    """
    if seen.stride == target.stride:
        return nn.Identity(), seen
    field = seen.then(3, 2)
    # The one of two positions that has the target's centre.
    phase = (target.size - field.size) // (2 * seen.stride) % 2
    return nn.Sequential(Crop(phase), nn.AvgPool2d(3, 2)), seen.crop(phase).then(3, 2)


class _Adjust(nn.Module):
    """ReLU, 1x1 convolution and BN: brings a cell's input to the cell's grid and filters.

    `trim` cells of that grid on each side are not needed and are cut off.
    """

    def __init__(self, channels: int, filters: int, onto: nn.Module, trim: int) -> None:
        super().__init__()
        self.onto = nn.Sequential(onto, Crop(trim))
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(channels, filters, 1, bias=False)
        self.bn = norm(filters)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(self.onto(self.relu(x))))
        return out


class Cell(nn.Module):
    """A NASNet block without padding.

    Parameters
    ----------
    genotype, filters, separables
        What to build, how wide, and with how many convolutions per separable branch.
    current, previous
        (channels, field) of the outputs of the last cell and the one before it.

    `field` and `channels` describe the output; `ratio` is how many cells of PREVIOUS lie along one
    of CURRENT, and `stride` how many of CURRENT along one of the output.
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
        self.sources = tuple(tuple(b.source for b in step) for step in genotype.steps)
        self.output = genotype.output
        self.channels = filters * len(genotype.output)
        self.stride = genotype.stride

        # The output's field covers what is read of both inputs.
        seen, jump = current[1], current[1].stride
        onto, seen_before = _onto(previous[1], seen)
        self.ratio = jump // previous[1].stride
        read, read_before = (
            field.crop(need)
            for field, need in zip((seen, seen_before), needs(genotype, separables), strict=True)
        )
        size = max(read.size, read_before.size)
        trim, rest = divmod(size - read.size, 2 * jump)
        trim_before, rest_before = divmod(size - read_before.size, 2 * jump)
        if rest or rest_before or seen_before.stride != jump:
            raise ValueError(f"{seen_before} cannot be aligned with {seen}")
        self.field = Field(0, size, jump * genotype.stride)
        self.current = _Adjust(current[0], filters, nn.Identity(), trim)
        self.previous = _Adjust(previous[0], filters, onto, trim_before)
        cut = crops(genotype, separables)
        self.steps = nn.ModuleList(
            nn.ModuleList(
                _branch(branch, crop, genotype.stride, filters, separables)
                for branch, crop in zip(step, step_crops, strict=True)
            )
            for step, step_crops in zip(genotype.steps, cut.branches, strict=True)
        )
        self.crops = nn.ModuleList(Crop(n) for n in cut.output)

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        states = [self.current(current), self.previous(previous)]
        for step, (a, b) in zip(self.steps, self.sources, strict=True):
            left, right = cast("nn.ModuleList", step)
            states.append(left(states[a]) + right(states[b]))
        return torch.cat(
            [crop(states[i]) for crop, i in zip(self.crops, self.output, strict=True)], dim=1
        )
