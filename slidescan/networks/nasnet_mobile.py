"""NASNet-A Mobile (4 @ 1056) as published, zero padding included: Zoph et al. 2018, table 3.

Its cells come from the genotypes of the valid network. Padding and widths are those of
`pretrainedmodels` 0.7.4, models/nasnet_mobile.py, whose weights fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from slidescan.errors import ModelError
from slidescan.networks.body import Body
from slidescan.networks.cells import norm
from slidescan.networks.genotype import FIRST_STEP as INPUTS
from slidescan.networks.genotype import NORMAL, PREVIOUS, REDUCTION, Genotype, Kind, Op


@dataclass(frozen=True, slots=True)
class Part:
    """A cell of the published network."""

    name: str
    """In the published state dict."""
    genotype: Genotype
    filters: int
    phase: int = 1
    """The input cell of two, 0 or 1, on which a strided operation is centred.

    The original pads like TensorFlow's "same" at 224 px: equally on both sides of an odd extent,
    which gives 0, and one more at the end of an even extent, which gives 1. `pretrainedmodels` uses
    these values at every size.
    """


def _normals(first: int, filters: int) -> list[Part]:
    return [Part(f"cell_{first + i}", NORMAL, filters) for i in range(4)]


STEM_FILTERS = 32
PARTS = (
    Part("cell_stem_0", REDUCTION, 11, phase=0),  # its input's extent, 111 at 224 px, is odd
    Part("cell_stem_1", REDUCTION, 22),
    *_normals(0, 44),
    Part("reduction_cell_0", REDUCTION, 88),
    *_normals(6, 88),
    Part("reduction_cell_1", REDUCTION, 176),
    *_normals(12, 176),
)


def _separable(channels: int, filters: int, kernel: int, stride: int, pad: int) -> nn.Sequential:
    """ReLU, depthwise and pointwise convolution, BN."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, pad, groups=channels, bias=False),
        nn.Conv2d(channels, filters, 1, bias=False),
        norm(filters),
    )


def _branch(op: Op, stride: int, phase: int, channels: int, filters: int) -> nn.Module:
    """An operation whose output i is centred at `stride * i + phase`.

    An extent n becomes n at stride 1 and (n + 1 - phase) // 2 at stride 2.
    """
    half = op.kernel // 2
    before, ceil = half - phase, phase == 1
    match op.kind:
        case Kind.SEPARABLE:
            return nn.Sequential(
                # Before the ReLU, which does not change zeros.
                nn.ZeroPad2d((0, phase, 0, phase)) if phase else nn.Identity(),
                _separable(channels, filters, op.kernel, stride, before),
                _separable(filters, filters, op.kernel, 1, half),
            )
        case Kind.AVERAGE:
            return nn.AvgPool2d(op.kernel, stride, before, ceil_mode=ceil, count_include_pad=False)
        case Kind.MAX:
            return nn.MaxPool2d(op.kernel, stride, before, ceil_mode=ceil)
        case Kind.IDENTITY:
            return nn.Identity()


def _adjust(channels: int, filters: int) -> nn.Sequential:
    """ReLU, 1x1 convolution and BN: brings a cell's input to the cell's number of filters."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(channels, filters, 1, bias=False), norm(filters))


class Factorised(nn.Module):
    """Factorised reduction: `_adjust` for a feature map of half the stride.

    Half of the filters see the even cells; the other half see the odd ones, one cell further down
    and to the right. An extent n becomes (n + 1) // 2.
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.even = nn.Conv2d(channels, filters // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(channels, filters // 2, 1, stride=2, bias=False)
        self.bn = norm(filters)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        # An odd extent has no odd cell at its end; zeros take its place.
        shifted = nn.functional.pad(x[:, :, 1:, 1:], (0, 1, 0, 1))
        out: Tensor = self.bn(torch.cat((self.even(x), self.odd(shifted)), dim=1))
        return out


def _bring(channels: int, filters: int, last: Part | None) -> tuple[nn.Module, int]:
    """The layer that brings PREVIOUS to the grid of CURRENT, the output of `last`; its channels."""
    if last is None:
        return nn.Identity(), channels  # the first cell's separables read the stem as it is
    if last.genotype.stride > 1:
        return Factorised(channels, filters), filters
    return _adjust(channels, filters), filters


class PaddedCell(nn.Module):
    """A NASNet block that keeps its input's extent, or halves it.

    Parameters
    ----------
    part, last
        What to build, and what the cell before it is.
    current, previous
        Channels of the outputs of the last cell and the one before it.

    `channels` describes the output.
    """

    def __init__(self, part: Part, last: Part | None, current: int, previous: int) -> None:
        super().__init__()
        genotype, filters = part.genotype, part.filters
        self.sources = tuple(tuple(b.source for b in step) for step in genotype.steps)
        self.output = genotype.output
        self.channels = filters * len(genotype.output)
        self.current = _adjust(current, filters)
        self.previous, width = _bring(previous, filters, last)

        def branch(op: Op, source: int) -> nn.Module:
            channels = width if source == PREVIOUS else filters
            if source < INPUTS and genotype.stride > 1:
                return _branch(op, genotype.stride, part.phase, channels, filters)
            return _branch(op, 1, 0, channels, filters)

        self.steps = nn.ModuleList(
            nn.ModuleList(branch(b.op, b.source) for b in step) for step in genotype.steps
        )

    def forward(self, current: Tensor, previous: Tensor) -> Tensor:
        states = [self.current(current), self.previous(previous)]
        for step, (a, b) in zip(self.steps, self.sources, strict=True):
            left, right = cast("nn.ModuleList", step)
            states.append(left(states[a]) + right(states[b]))
        return torch.cat([states[i] for i in self.output], dim=1)


class NasnetMobile(Body):
    """NASNet-A Mobile up to its last cell, without the ReLU, mean, dropout and classifier after it.

    It pads, so a feature depends on its place in the image, and patches must be scored one by one.
    `forward` takes RGB (N, 3, H, W) in [-1, 1] (published mean and deviation: 0.5) and gives
    (N, 1056, h, w), where h = (H + 1) // 32. As published it takes sides of 32 k - 1 to 32 k + 2 px
    only, and raises `ValueError` for others.
    """

    channels = 1056
    field = None

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, STEM_FILTERS, 3, stride=2, bias=False), norm(STEM_FILTERS)
        )
        self.cells = nn.ModuleDict()
        current = before = STEM_FILTERS
        last: Part | None = None
        for part in PARTS:
            cell = PaddedCell(part, last, current, before)
            self.cells[part.name] = cell
            last, current, before = part, cell.channels, current

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        # At other sizes an odd extent is halved in two ways that differ by one cell.
        if (height + 1) % 32 > 3 or (width + 1) % 32 > 3:
            raise ValueError(
                f"{height} x {width} px: NASNet-A Mobile takes sides of 32 k - 1 to 32 k + 2 px; "
                "crop to a multiple of 32"
            )
        current = previous = self.stem(x)
        for cell in self.cells.values():
            current, previous = cell(current, previous), current
        features: Tensor = current
        return features


_CLASSIFIER = "last_linear."
_COUNT = "num_batches_tracked"
_REMEDY = "take the state dict of pretrainedmodels' nasnetamobile"
_RENAMES = (
    (r"^stem\.0", "conv0.conv"),
    (r"^stem\.1", "conv0.bn"),
    (r"^cells\.", ""),
    (r"\.current\.1", ".conv_1x1.conv"),
    (r"\.current\.2", ".conv_1x1.bn"),
    (r"\.previous\.1", ".conv_prev_1x1.conv"),
    (r"\.previous\.2", ".conv_prev_1x1.bn"),
    (r"\.previous\.even", ".path_1.conv"),
    (r"\.previous\.odd", ".path_2.conv"),
    (r"\.previous\.bn", ".final_path_bn"),
    (r"\.steps\.(\d)\.0", r".comb_iter_\1_left"),
    (r"\.steps\.(\d)\.1", r".comb_iter_\1_right"),
    (r"\.([12])\.1(\.\w+)$", r".separable_\1.depthwise_conv2d\2"),
    (r"\.([12])\.2(\.\w+)$", r".separable_\1.pointwise_conv2d\2"),
    (r"\.([12])\.3(\.\w+)$", r".bn_sep_\1\2"),
)
"""From the names of `NasnetMobile` to the published ones, applied in turn."""


def published_name(name: str) -> str:
    """The name in `pretrainedmodels` of a tensor of `NasnetMobile`.

    >>> published_name("cells.cell_6.steps.1.0.2.1.weight")
    'cell_6.comb_iter_1_left.separable_2.depthwise_conv2d.weight'
    """
    for ours, theirs in _RENAMES:
        name = re.sub(ours, theirs, name)
    return name


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of `pretrainedmodels`' nasnetamobile to one of `NasnetMobile`.

    The classifier, `last_linear`, is dropped. BatchNorm's batch counts, which older files do not
    have, start at 0. Raises `ModelError` with the first tensor that is missing or has another
    shape, or else with the first superfluous one.
    """
    with torch.device("meta"):
        expected = NasnetMobile().state_dict()
    taken = {}
    left = {name: value for name, value in state.items() if not name.startswith(_CLASSIFIER)}
    for ours, like in expected.items():
        theirs = published_name(ours)
        value = left.pop(theirs, torch.tensor(0) if ours.endswith(_COUNT) else None)
        if value is None:
            raise ModelError(f"published weights: no tensor {theirs}; {_REMEDY}")
        if value.shape != like.shape:
            got, wanted = tuple(value.shape), tuple(like.shape)
            raise ModelError(f"published weights: {theirs} is {got}, not {wanted}; {_REMEDY}")
        taken[ours] = value
    if left:
        raise ModelError(f"published weights: unknown tensor {next(iter(left))}; {_REMEDY}")
    return taken
