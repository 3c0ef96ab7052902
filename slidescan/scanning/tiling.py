"""Which tiles a scan gives to the engine, and how many cells of each it computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidescan.engines import patchwise
from slidescan.geometry import Box
from slidescan.scanning import pipeline


@dataclass(frozen=True, slots=True)
class Tiling:
    """Cuts blocks into tiles, as the mode needs them."""

    stride_px: int
    by_patch: bool
    """mode patch: tiles are small, and only selected cells are computed"""

    def work(self, blocks: Iterable[Box], mask: NDArray[np.bool_]) -> Iterator[pipeline.Work]:
        """The tiles of the blocks that hold a selected cell."""
        tile_cells = pipeline.TILE_PX // self.stride_px
        if self.by_patch:
            tile_cells = min(tile_cells, patchwise.TILE_CELLS)
        return pipeline.plan_work(blocks, mask, tile_cells)

    def pixels(self, work: Iterable[pipeline.Work], mask: NDArray[np.bool_]) -> int:
        """How many scan-plane pixels the engine gets, without those that neighbours share."""
        return sum(self.tile_pixels(tile, mask) for item in work for tile in item.tiles)

    def tile_pixels(self, tile: Box, mask: NDArray[np.bool_]) -> int:
        """`pixels` of one tile."""
        cells = int(np.count_nonzero(mask[tile.slices])) if self.by_patch else tile.area
        return cells * self.stride_px**2
