"""Patches from all over a slide, to compare its pixels with those of training before the scan."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import SlideError
from slidescan.geometry import Box, Grid
from slidescan.protocols import Reader, read_with_gaps
from slidescan.scanning.verification import draw


def sample(
    reader: Reader, grid: Grid, mask: NDArray[np.bool_], count: int, threads: int
) -> NDArray[np.uint8]:
    """Read the fields of view of up to `count` selected cells, the same ones in every run.

    (N, H, W, 3). Cells whose pixels are missing or cannot be read are left out; the scan reports
    them.
    """

    def read(cell: Box) -> NDArray[np.uint8] | None:
        try:
            pixels, missing = read_with_gaps(reader, grid.pixels(cell))
        except SlideError:
            return None
        return None if missing is not None and missing.any() else pixels

    with ThreadPoolExecutor(threads, "sample") as pool:
        patches = [each for each in pool.map(read, draw(mask, count, seed=0)) if each is not None]
    side = grid.field_px
    return np.stack(patches) if patches else np.empty((0, side, side, 3), np.uint8)
