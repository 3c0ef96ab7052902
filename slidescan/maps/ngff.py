"""The levels of a map as OME-NGFF 0.5: shapes, averaging, and their place on the slide."""

from __future__ import annotations

from itertools import product
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

LEVEL_CELLS = 256
"""Levels are added until both sides of the last one are at most this."""

COLOUR = "E69F00"
"""Orange, RGB: viewers show a probability as a colour from black, 0, to this, 1. It is told from
the colours of the label images with colour blindness as well (Okabe and Ito 2008)."""


def shapes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the cells (rows, columns) of every level of a new map, finest first."""
    count = 1
    while max(halved(shape, count)[-1]) > LEVEL_CELLS:
        count += 1
    return halved(shape, count)


def halved(shape: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """Return the cells (rows, columns) of `count` levels, each half the one before.

    >>> halved((5, 8), 3)
    [(5, 8), (3, 4), (2, 2)]
    """
    rows, columns = shape
    return [(-(-rows >> level), -(-columns >> level)) for level in range(count)]


def halve(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of the finite cells of each 2 x 2 square; NaN where none is finite.

    Squares at odd edges are cut.
    """
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
    """Return which 2 x 2 squares hold a true cell, which is where `halve` gives a number."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, height % 2), (0, width % 2)))
    rows = padded[::2] | padded[1::2]
    squares: NDArray[np.bool_] = rows[:, ::2] | rows[:, 1::2]
    return squares


def multiscales(name: str, cell_um: float, levels: int, kind: str) -> list[dict[str, Any]]:
    """Return the "multiscales" metadata of NGFF 0.5: where each level lies, in micrometres."""
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


def omero(name: str) -> dict[str, Any]:
    """Return the "omero" metadata of NGFF 0.4 and 0.5: how viewers show probabilities."""
    window = {"start": 0.0, "end": 1.0, "min": 0.0, "max": 1.0}
    channel = {"label": "P(tumour)", "color": COLOUR, "window": window, "active": True}
    return {"name": name, "channels": [channel]}
