"""The cells of a map as a list, hottest first or in the order of the map, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from slidescan.maps.store import Heatmap
from slidescan.protocols import OpenBar, no_bar

Places: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Rows, columns and values of cells, (N,) each."""


@dataclass(frozen=True, slots=True)
class Cells:
    """The hottest cells of a map; (N,) each."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[np.float32]
    threshold: float
    pitch_l0: tuple[float, float]
    """level-0 px a cell, (x, y)"""
    left_out: int
    """cells from the threshold up that are not among them"""

    def note(self) -> str:
        """What is in the list, for a reader."""
        cells = f"{len(self.values):,} cells with P(tumour) from {self.threshold:.4g} up"
        if not self.left_out:
            return cells
        return f"{cells}, the hottest; {self.left_out:,} more are left out (--limit)"


def pitch_l0(heatmap: Heatmap) -> tuple[float, float]:
    """Level-0 px a cell, (x, y)."""
    y_mpp, x_mpp = heatmap.settings["slide"]["mpp"]
    cell_um = heatmap.mpp * heatmap.grid.stride
    return cell_um / x_mpp, cell_um / y_mpp


def in_order(heatmap: Heatmap, threshold: float | None, bar: OpenBar = no_bar) -> Iterator[Places]:
    """Yield (rows, columns, values) of the cells of each block from the threshold up.

    None takes every cell that has a value. Blocks come row by row.
    """
    scanned = heatmap.scanned
    with bar("reading cells", scanned.shape[0], "row") as progress:
        for block in heatmap.blocks():
            if scanned[block.slices].any():
                values = heatmap.read(block)
                wanted = np.isfinite(values) if threshold is None else values >= threshold
                rows, columns = np.nonzero(wanted)
                if len(rows):
                    yield rows + block.y0, columns + block.x0, values[rows, columns]
            if block.x1 == scanned.shape[1]:
                progress.update(block.shape[0])


def hottest(heatmap: Heatmap, threshold: float, limit: int, bar: OpenBar = no_bar) -> Cells:
    """Return at most `limit` cells from the threshold up, the hottest first.

    Of equal ones the upper and then the left one comes first. Holds 2 * limit cells and a block.

    Raises MapError where the map cannot be read.
    """
    kept: Places = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    found, least = 0, threshold
    for rows, columns, values in in_order(heatmap, threshold, bar):
        found += len(values)
        hot = values >= np.float32(least)
        kept = (
            np.concatenate([kept[0], rows[hot]]),
            np.concatenate([kept[1], columns[hot]]),
            np.concatenate([kept[2], values[hot]]),
        )
        if len(kept[2]) > 2 * limit:
            kept = _first(limit, *kept)
            least = float(kept[2][-1])
    rows, columns, values = _first(limit, *kept)
    return Cells(rows, columns, values, threshold, pitch_l0(heatmap), found - len(values))


def _first(
    limit: int, rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float32]
) -> Places:
    order = np.lexsort((columns, rows, -values))[:limit]
    return rows[order], columns[order], values[order]
