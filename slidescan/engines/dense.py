"""Dense engines at other strides than a network's own, exact at each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidescan.engines import build
from slidescan.engines.backend import Backend
from slidescan.engines.graph_cache import GraphCache
from slidescan.geometry import SMALLEST_STRIDE_PX, Field
from slidescan.models.model import Model
from slidescan.protocols import WHITE, Engine


def strides(native: int, most: int) -> list[int]:
    """The strides, up to `most` px, at which a network of stride `native` scans densely.

    >>> strides(8, 96)
    [2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96]
    """
    return [*sorted(_halves(native)), *range(native, most + 1, native)]


def _halves(native: int) -> Iterator[int]:
    while native % 2 == 0 and native // 2 >= SMALLEST_STRIDE_PX:
        native //= 2
        yield native


def make_engine(model: Model, stride_px: int, backend: Backend, graphs: GraphCache) -> Engine:
    """Build an engine that gives an output for every `stride_px` pixels, one of `strides`."""
    native = model.card.stride_px
    engine = build.load_engine(model, min(native, stride_px), backend, graphs)
    if stride_px < native:
        return Filled(engine, Field(0, model.card.field_px, stride_px), native // stride_px)
    return engine if stride_px == native else Thinned(engine, stride_px // native)


@dataclass(frozen=True, slots=True)
class Thinned:
    """Every n-th output of an engine along both axes. Fulfils `Engine`.

    All outputs are computed. As long as the stride is smaller than a patch, the fields of view
    overlap, so only the branches of the last cell could be saved: 4 to 5 % of the arithmetic of the
    shipped models.
    """

    engine: Engine
    every: int

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """P(tumour) of RGB (N, H, W, 3) uint8: (N, h, w)."""
        return self.engine(pixels)[:, :: self.every, :: self.every]


@dataclass(frozen=True, slots=True)
class Filled:
    """All outputs of an engine whose output sizes are multiples of `multiple`. Fulfils `Engine`.

    Images are padded with white at the bottom and on the right, and the outputs that see the
    padding are cut off.
    """

    engine: Engine
    field: Field
    multiple: int

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """P(tumour) of RGB (N, H, W, 3) uint8: (N, h, w)."""
        count, height, width, _ = pixels.shape
        rows, columns = (self.field.outputs(n) for n in (height, width))
        h, w = (self.field.extent(-(-n // self.multiple) * self.multiple) for n in (rows, columns))
        if (h, w) != (height, width):
            filled = np.full((count, h, w, 3), WHITE, np.uint8)
            needed = pixels[:, :h, :w]
            filled[:, : needed.shape[1], : needed.shape[2]] = needed
            pixels = filled
        return self.engine(pixels)[:, :rows, :columns]
