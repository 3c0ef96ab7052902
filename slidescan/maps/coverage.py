"""Which cells of a map are to have a value: the tissue mask without the gaps, on every level.

A gap is a selected cell that cannot be scanned because the slide lacks pixels of its field of view.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import MapError
from slidescan.geometry import Box
from slidescan.maps.layout import GAPS, TISSUE, Arrays, DamageError
from slidescan.maps.ngff import touched

Cells = NDArray[np.bool_]


class Coverage:
    """The tissue mask and the gaps of one map."""

    def __init__(self, arrays: Arrays, cells: Box, selected: int | None) -> None:
        """Read both; `selected` is the number of cells that the mask must have, if known.

        Raises MapError where they cannot be read or the mask has another number of cells.
        """
        self._arrays = arrays
        self.mask = cast("Cells", arrays.read(f"{TISSUE}/0", cells) == 1)
        self.mask.setflags(write=False)
        if selected not in (None, np.count_nonzero(self.mask)):
            raise DamageError(
                f"{arrays.path}: the tissue mask has lost cells; scan again with --overwrite"
            )
        self.gaps: Cells | None = None
        """None where there are none, as in most maps"""
        if GAPS in arrays.labels and arrays.has_shards(f"{GAPS}/0"):
            self.gaps = cast("Cells", arrays.read(f"{GAPS}/0", cells) == 1)
        self._levels: list[Cells] = []

    def block(self, block: Box) -> Cells:
        """Return the cells of a block of level 0 that are to have a value."""
        mask = self.mask[block.slices]
        return mask if self.gaps is None else mask & ~self.gaps[block.slices]

    def level(self, level: int) -> Cells:
        """Return the cells of a level that have a value once the map is complete."""
        if not self._levels:
            self._levels = [self.mask if self.gaps is None else self.mask & ~self.gaps]
        while len(self._levels) <= level:
            self._levels.append(touched(self._levels[-1]))
        return self._levels[level]

    def put_gaps(self, block: Box, gaps: Cells | None) -> None:
        """Store which selected cells of a block are gaps, and bring it to the disk.

        Raises:
            MapError: the map was begun by an earlier version.
            WriteError: the disk does not take them.
        """
        if gaps is None or not gaps.any():
            if self.gaps is None or not self.gaps[block.slices].any():
                return
            gaps = np.zeros(block.shape, np.bool_)
        if GAPS not in self._arrays.labels:
            raise MapError(
                f"{self._arrays.path}: the slide lacks pixels, and this map was begun by an "
                "earlier version, which cannot record that; scan again with --overwrite"
            )
        here = gaps & self.mask[block.slices]
        self._arrays.write(f"{GAPS}/0", block, here.astype(np.uint8))
        if self.gaps is None:
            self.gaps = np.zeros(self.mask.shape, np.bool_)
        self.gaps[block.slices] = here
        self._levels = []

    def finish_gaps(self, shapes: list[tuple[int, int]]) -> None:
        """Store the coarser levels of the gaps. Raises WriteError."""
        if self.gaps is None:
            return
        gaps = self.gaps
        for level, shape in enumerate(shapes[1:], start=1):
            gaps = touched(gaps)
            for block in Box(0, 0, *shape).split(self._arrays.block_cells):
                if gaps[block.slices].any():
                    here = gaps[block.slices].astype(np.uint8)
                    self._arrays.write(f"{GAPS}/{level}", block, here)
