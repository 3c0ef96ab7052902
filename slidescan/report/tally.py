"""A map's values in summary, read block by block: the histogram and the scores of the slide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidescan.maps.store import Heatmap

BINS = 50
"""Bars of the histogram, each 0.02 wide."""

TOP_CELLS = 100


@dataclass(frozen=True, slots=True)
class Tally:
    """What the finite cells of a map come to."""

    cells: int
    """with a value"""
    above: int
    """from the threshold up"""
    highest: float
    """NaN where there is no value, as the means"""
    mean: float
    top_mean: float
    """of the TOP_CELLS highest, or of all where there are fewer"""
    counts: NDArray[np.int64]
    """(BINS,) cells by value from 0 to 1"""


def tally(heatmap: Heatmap, threshold: float) -> Tally:
    """Summarise a map, which may be unfinished. Raises MapError where it cannot be read."""
    cells, above, total = 0, 0, 0.0
    counts = np.zeros(BINS, np.int64)
    top = np.empty(0, np.float32)
    scanned = heatmap.scanned
    for block in heatmap.blocks():
        if not scanned[block.slices].any():
            continue
        values = heatmap.read(block)
        p = values[np.isfinite(values)]
        cells, total = cells + p.size, total + float(p.sum(dtype=float))
        above += int(np.count_nonzero(p >= threshold))
        counts += np.histogram(p, BINS, (0, 1))[0]
        top = np.concatenate((top, p))
        if len(top) > TOP_CELLS:
            top = np.partition(top, -TOP_CELLS)[-TOP_CELLS:]
    if not cells:
        return Tally(0, 0, np.nan, np.nan, np.nan, counts)
    means = total / cells, float(top.mean(dtype=float))
    return Tally(cells, above, float(top.max()), *means, counts)
