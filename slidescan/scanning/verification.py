"""Does a map equal the patch classifier? Its cells, scored again one patch at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidescan.geometry import Box
from slidescan.maps.store import Heatmap
from slidescan.protocols import Engine
from slidescan.scanning.pipeline import score_patches
from slidescan.slides.plane import Plane


@dataclass(frozen=True, slots=True)
class Comparison:
    """Cells (rows, columns) that were compared and how far map and patch lie apart."""

    cells: tuple[Box, ...]
    differences: NDArray[np.float32]

    @property
    def worst(self) -> int:
        """Which cell differs most; one that is NaN on either side is worst of all."""
        return int(np.nan_to_num(self.differences, nan=np.inf).argmax())

    @property
    def largest(self) -> float:
        return float(self.differences[self.worst])


def draw(mask: NDArray[np.bool_], count: int, seed: int) -> tuple[Box, ...]:
    """Up to `count` different selected cells, at random, in the order of the map."""
    chosen = np.flatnonzero(mask)
    drawn = np.random.default_rng(seed).choice(chosen, min(count, len(chosen)), replace=False)
    rows, columns = (n.tolist() for n in np.unravel_index(np.sort(drawn), mask.shape))
    return tuple(Box(r, c, r + 1, c + 1) for r, c in zip(rows, columns, strict=True))


def compare(
    heatmap: Heatmap,
    plane: Plane,
    engine: Engine,
    cells: tuple[Box, ...],
    on_cell: Callable[[], object] = lambda: None,
) -> Comparison:
    """Read each cell's 96 x 96 px from the slide, score them alone, set them against the map."""
    there = np.array([heatmap.read(cell)[0, 0] for cell in cells])
    here = np.empty_like(there)
    for i, score in enumerate(score_patches(cells, heatmap.grid, plane, engine)):
        here[i] = score
        on_cell()
    return Comparison(cells, np.abs(there - here))
