"""Blocks of a slide that are damaged, as far as reading them shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.geometry import Box
from slidescan.slides.properties import Level
from slidescan.slides.tiff_index import Directory
from slidescan.slides.tile_check import TileCheck, one_colour

BoxL0 = tuple[int, int, int, int]
"""(x, y, width, height) in level-0 px."""


@dataclass(frozen=True, slots=True)
class Found:
    """A damaged block."""

    level: int
    box_l0: BoxL0
    why: str
    skipped: bool = False
    """Its pixels are gaps."""
    instead: int | None = None
    """The finer level that its pixels were computed from. Where it is None and the block was not
    skipped, its pixels were used as they were decoded."""


class Damage:
    """Collects what is damaged while several threads read a slide.

    skip: whether damaged blocks are left out instead of used, or of ending the scan.
    """

    def __init__(self, path: Path, directories: Sequence[Directory], *, skip: bool) -> None:
        self.skip = skip
        self._check = TileCheck(path, directories) if directories else None
        self._found: dict[tuple[int, Box], Found] = {}

    def reason(self, level: Level, block: Box, pixels: NDArray[np.uint8]) -> str | None:
        """Why the data of a block (h, w, 4) look damaged; None where they do not."""
        return self._check.reason(level.shape_px, block, pixels) if self._check else None

    def look_at(self, level: Level, block: Box, pixels: NDArray[np.uint8]) -> None:
        """Record a block (h, w, 4) of a suspicious colour; some slides have such areas."""
        if one_colour(pixels[..., :3]) and pixels[..., 3].min() == 255:
            self.note(level, block, "all of its pixels have one colour")

    def note(
        self,
        level: Level,
        block: Box,
        why: str,
        *,
        skipped: bool = False,
        instead: int | None = None,
    ) -> None:
        """Record a damaged block, once."""
        found = Found(level.index, _box_l0(level, block), why, skipped, instead)
        self._found.setdefault((level.index, block), found)

    def all(self) -> list[Found]:
        """What was found so far, in the order of levels and rows."""
        return sorted(self._found.values(), key=lambda each: (each.level, each.box_l0[::-1]))


def place(level: Level, block: Box) -> str:
    """Where a block is, for messages."""
    return place_l0(_box_l0(level, block))


def place_l0(box: BoxL0) -> str:
    """Where a box is, for messages."""
    x, y, width, height = box
    return f"level-0 x={x}, y={y}, {width} x {height} px"


def _box_l0(level: Level, block: Box) -> BoxL0:
    (down_y, down_x), (height, width) = level.downsample, block.shape
    x, y = round(block.x0 * level.reported), round(block.y0 * level.reported)
    return x, y, round(width * down_x), round(height * down_y)
