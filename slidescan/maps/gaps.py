"""Where the cells of a map's gaps lie on the slide."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidescan.tools.settings_diff import JSON

LISTED = 100
"""At most this many places are listed in a map's record."""


@dataclass(frozen=True, slots=True)
class Gaps:
    """The selected cells that were not scanned because the slide lacks pixels there."""

    cells: int
    share: float
    """of the selected cells"""
    boxes_l0: tuple[tuple[int, int, int, int], ...]
    """(x, y, width, height) around each connected group of cells, level-0 px, largest first"""

    def record(self) -> dict[str, JSON]:
        """What a map records: the number of cells and of places, and the largest places."""
        listed = [list(box) for box in self.boxes_l0[:LISTED]]
        return {"cells": self.cells, "places": len(self.boxes_l0), "boxes_l0": listed}

    def warning(self) -> str:
        """One line for the user."""
        x, y, width, height = self.boxes_l0[0]
        places = f"{len(self.boxes_l0)} places, the largest" if len(self.boxes_l0) > 1 else "one"
        return (
            f"pixels of the slide are missing or damaged: {self.cells} cells ({self.share:.2%} of "
            f"those selected) were not scanned and are NaN, in {places} at level-0 x={x}, y={y}, "
            f"{width} x {height} px; compare the file with its source"
        )


def find_gaps(
    gaps: NDArray[np.bool_] | None, mask: NDArray[np.bool_], pitch_l0: tuple[float, float]
) -> Gaps | None:
    """Describe the gaps of a map, None where there are none.

    `pitch_l0` is level-0 px per cell, (y, x).

    >>> mask = np.ones((4, 6), bool)
    >>> find_gaps(mask & (np.arange(6) > 4), mask, (32.0, 16.0)).boxes_l0
    ((80, 0, 16, 128),)
    """
    if gaps is None or not gaps.any():
        return None
    from scipy import ndimage  # slow to import, and most maps have no gaps

    labels, _ = ndimage.label(gaps, np.ones((3, 3)))
    boxes = [_box_l0(rows, columns, pitch_l0) for rows, columns in ndimage.find_objects(labels)]
    boxes.sort(key=lambda box: box[2] * box[3], reverse=True)
    cells = int(np.count_nonzero(gaps))
    return Gaps(cells, cells / np.count_nonzero(mask), tuple(boxes))


def _box_l0(
    rows: slice, columns: slice, pitch_l0: tuple[float, float]
) -> tuple[int, int, int, int]:
    (y0, y1), (x0, x1) = (
        (math.floor(cells.start * pitch), math.ceil(cells.stop * pitch))
        for cells, pitch in zip((rows, columns), pitch_l0, strict=True)
    )
    return x0, y0, x1 - x0, y1 - y0
