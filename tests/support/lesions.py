"""Synthetic slides as arrays of cells: lesions of known place and shape, maps of known values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Values = NDArray[np.float32]

UM = 7.5
"""um per cell: 75/2 um are exactly five cells, so distances can be counted by hand."""


def blank(rows: int, columns: int) -> Mask:
    return np.zeros((rows, columns), bool)


def rectangle(shape: tuple[int, int], top: int, left: int, height: int, width: int) -> Mask:
    mask = blank(*shape)
    mask[top : top + height, left : left + width] = True
    return mask


def disc(shape: tuple[int, int], row: int, column: int, radius: float) -> Mask:
    """Cells whose centre lies within `radius` cells of a cell's centre."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((y - row) ** 2 + (x - column) ** 2 <= radius**2)


def ring(shape: tuple[int, int], row: int, column: int, inner: float, outer: float) -> Mask:
    return disc(shape, row, column, outer) & ~disc(shape, row, column, inner)


def corner(shape: tuple[int, int], top: int, left: int, arm: int, thick: int) -> Mask:
    """An L: its centre of mass lies outside it."""
    return rectangle(shape, top, left, arm, thick) | rectangle(
        shape, top + arm - thick, left, thick, arm
    )


def heatmap(
    shape: tuple[int, int], peaks: dict[tuple[int, int], float], base: float = 0.1
) -> Values:
    """`base` in every cell but those of `peaks`, which have their own values."""
    values = np.full(shape, base, np.float32)
    for cell, value in peaks.items():
        values[cell] = value
    return values
