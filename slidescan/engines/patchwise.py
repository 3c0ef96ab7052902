"""Computes each cell from its own patch, for networks of any kind and any stride."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from slidescan.geometry import Field
from slidescan.protocols import BATCH, Engine

TILE_CELLS = 32
"""The most cells along a side of a tile. Tiles are small so that progress is visible; their cells
share no computation, so this costs only the reading of the halo."""


@dataclass(frozen=True, slots=True)
class Patchwise:
    """Scores the wanted windows of `field`, each as a patch. Fulfils `Selective`.

    The network may pad with zeros, and the stride is free. Memory beyond the input is one batch.
    """

    engine: Engine
    field: Field
    batch: int = BATCH

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """P(tumour) of RGB (N, H, W, 3) uint8: (N, h, w), one per `field.stride`."""
        return self.select(pixels, np.ones(self._windows(pixels).shape[:3], np.bool_))

    def select(self, pixels: NDArray[np.uint8], wanted: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The same where `wanted` (N, h, w), elsewhere NaN."""
        windows = self._windows(pixels)
        scores = np.full(wanted.shape, np.nan, np.float32)
        places = np.argwhere(wanted)
        # The last batch is not filled up: that would cost more than a second shape does.
        for first in range(0, len(places), self.batch):
            some = tuple(places[first : first + self.batch].T)
            scores[some] = self.engine(np.ascontiguousarray(windows[some]))[:, 0, 0]
        return scores

    def _windows(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A view (N, h, w, size, size, 3), no copy."""
        side, step = self.field.size, self.field.stride
        windows = sliding_window_view(pixels, (side, side), axis=(1, 2))[:, ::step, ::step]
        return windows.transpose(0, 1, 2, 4, 5, 3)
