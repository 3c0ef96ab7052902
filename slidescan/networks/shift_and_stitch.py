"""A valid network at a finer stride than its own, by shift and stitch (Long et al. 2015, 3.2).

A layer of stride 2 keeps every other output. The outputs between are those of the same layer for
an input that is shifted by one. So a strided layer gets all four shifts of its input as a batch,
and the results are interleaved at the end. Only the last strided layers are treated so: the early
layers, which cost most, run once. The result is exact.
"""

from __future__ import annotations

import copy
from itertools import product
from typing import cast

import torch
from torch import Tensor, nn

from slidescan.errors import ConfigError
from slidescan.geometry import SMALLEST_STRIDE_PX, Field
from slidescan.networks.body import Body
from slidescan.networks.cells import Cell
from slidescan.networks.heads import CLASSES
from slidescan.networks.network import Network
from slidescan.networks.valid import Nasnet, Plain


class Fan(nn.Module):
    """The four shifts by `cells` down and right, as a batch: (N, C, H, W) to
    (4 N, C, H - cells, W - cells)."""

    def __init__(self, cells: int = 1) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, x: Tensor) -> Tensor:
        n = self.cells
        parts = (slice(None, -n), slice(n, None))
        return torch.cat([x[:, :, rows, columns] for rows, columns in product(parts, parts)])


class ShiftAndStitch(nn.Module):
    """A network at `stride` px, a half, quarter, ... of its own.

    `forward` takes the network's input and gives logits (N, 2, h, w), one per `stride` pixels; h
    and w are rounded down to multiples of `multiple`. Raises `ConfigError` for other strides.
    """

    def __init__(self, network: Network, stride: int) -> None:
        super().__init__()
        native = network.field.stride
        self.multiple, rest = divmod(native, stride)
        self.fans = self.multiple.bit_length() - 1
        if rest or stride < SMALLEST_STRIDE_PX or self.multiple != 1 << self.fans:
            raise ConfigError(
                f"stride {stride}: a dense scan takes the network's own, {native} px, and its "
                f"halves down to {SMALLEST_STRIDE_PX} px"
            )
        self.field = Field(0, network.field.size, stride)
        self.plan = network.plan
        self.network = copy.deepcopy(network)
        self.network.body = _fan_out(self.network.body, self.fans)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        for _ in range(self.fans):
            logits = _interleave(logits)
        return logits


def _interleave(x: Tensor) -> Tensor:
    """Join the four shifts of the last `Fan`: (4 N, C, h, w) to (N, C, 2 h, 2 w)."""
    shifts = x.chunk(4)
    # Not a reshape: an exported one would be limited to the example's sizes.
    channels = [shift[:, c : c + 1] for c in range(CLASSES) for shift in shifts]
    return nn.functional.pixel_shuffle(torch.cat(channels, dim=1), 2)


def _fan_out(body: Body, fans: int) -> Body:
    match body:
        case Plain():
            body.layers = _fanned(body.layers, fans)
            return body
        case Nasnet():
            return _Fanned(body, fans)
    raise ConfigError("a network that pads with zeros cannot scan densely; use --mode patch")


def _strided(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | nn.MaxPool2d) and layer.stride in (2, (2, 2))


def _fanned(layers: nn.Sequential, fans: int) -> nn.Sequential:
    """`layers` with a `Fan` before each of the last `fans` strided layers."""
    places = [i for i, layer in enumerate(layers) if _strided(layer)]
    chosen = places[len(places) - fans :]
    made = (nn.Sequential(Fan(), part) if i in chosen else part for i, part in enumerate(layers))
    return nn.Sequential(*made)


class _FannedCell(nn.Module):
    """A strided cell that gets all shifts of its inputs."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.current, self.previous, self.cell = Fan(), Fan(cell.ratio), cell

    def forward(self, current: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs, and the shifts of CURRENT: the next cell's PREVIOUS."""
        current = self.current(current)
        return self.cell(current, self.previous(previous)), current


class _Fanned(Body):
    """NASNet's body with fans before its last reductions, and in the stem if that is not enough."""

    def __init__(self, body: Nasnet, fans: int) -> None:
        super().__init__()
        cells = [cast("Cell", cell) for cell in body.cells]
        reductions = [i for i, cell in enumerate(cells) if cell.stride > 1]
        chosen = reductions[max(0, len(reductions) - fans) :]
        self.stem = _fanned(body.stem, fans - len(chosen))
        self.cells = nn.ModuleList(
            _FannedCell(cell) if i in chosen else cell for i, cell in enumerate(cells)
        )

    def forward(self, x: Tensor) -> Tensor:
        current = previous = self.stem(x)
        for cell in self.cells:
            if isinstance(cell, _FannedCell):
                current, previous = cell(current, previous)
            else:
                current, previous = cell(current, previous), current
        features: Tensor = current
        return features
