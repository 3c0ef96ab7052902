"""What OME-NGFF 0.5 says of a map: its levels, and where each lies on the slide."""

from __future__ import annotations

from itertools import product
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

LEVEL_CELLS = 256
"""Levels are halved until both sides fit this."""


def shapes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Cells (rows, columns) of every level, finest first."""
    levels = [shape]
    while max(levels[-1]) > LEVEL_CELLS:
        levels.append((-(-levels[-1][0] // 2), -(-levels[-1][1] // 2)))
    return levels


def halve(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of the finite cells of each 2 x 2 square, cut at odd edges; NaN where there is none."""
    height, width = values.shape
    padded = np.pad(values, ((0, height % 2), (0, width % 2)), constant_values=np.nan)
    count = np.zeros((len(padded) // 2, padded.shape[1] // 2), np.uint8)
    total = np.zeros(count.shape)
    for y, x in product((0, 1), (0, 1)):
        quarter = padded[y::2, x::2]
        finite = np.isfinite(quarter)
        count += finite
        np.add(total, quarter, out=total, where=finite)
    mean = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return cast("NDArray[np.float32]", mean.astype(np.float32))


def touched(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which 2 x 2 squares, cut at odd edges, hold a true cell: where `halve` gives a number."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, height % 2), (0, width % 2)))
    rows = padded[::2] | padded[1::2]
    squares: NDArray[np.bool_] = rows[:, ::2] | rows[:, 1::2]
    return squares


def multiscales(name: str, cell_um: float, levels: int, kind: str) -> list[dict[str, Any]]:
    """NGFF 0.5, "multiscales" metadata: where each level lies, in micrometres."""
    datasets = []
    for level in range(levels):
        scale = cell_um * 2**level
        place = [
            {"type": "scale", "scale": [scale, scale]},
            {"type": "translation", "translation": [scale / 2, scale / 2]},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": place})
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    return [{"name": name, "type": kind, "axes": axes, "datasets": datasets}]
