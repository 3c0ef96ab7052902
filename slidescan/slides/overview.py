"""Reading a whole region at once: overviews of a slide, and pictures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from slidescan.geometry import Box
from slidescan.protocols import Bar, Reader, read_with_gaps
from slidescan.slides.plane import Plane

LEVEL_PX = 2048
"""Side of the largest read of an overview, in pixels of the slide's level."""

OnGaps = Callable[[Box, NDArray[np.bool_]], object]
"""Receives a part of a plane and which of its pixels are missing, (H, W) bool."""


def read_whole(
    plane: Plane,
    box: Box,
    what: str,
    threads: int,
    bar: Callable[[str, int, str], AbstractContextManager[Bar]],
    on_gaps: OnGaps = lambda part, missing: None,
) -> NDArray[np.uint8]:
    """Read all of `box`, (H, W, 3) uint8, in parts that bound the memory.

    `on_gaps` is called for each part with missing pixels, from several threads.
    """
    side = max(16, int(LEVEL_PX / max(plane.ratio)))
    with bar(what, box.area, "px") as progress:
        return assemble(plane, box, side, threads, lambda part: progress.update(part.area), on_gaps)


def assemble(
    reader: Reader,
    box: Box,
    side: int,
    threads: int,
    on_part: Callable[[Box], object] = lambda part: None,
    on_gaps: OnGaps = lambda part, missing: None,
) -> NDArray[np.uint8]:
    """Read a whole box of a plane, (H, W, 3) uint8, in squares of `side` px by several threads."""
    out = np.empty((*box.shape, 3), np.uint8)

    def fill(part: Box) -> Box:
        out[part.shift(-box.y0, -box.x0).slices], missing = read_with_gaps(reader, part)
        if missing is not None:
            on_gaps(part, missing)
        return part

    with ThreadPoolExecutor(threads, "read") as pool:
        for part in pool.map(fill, box.split(side)):
            on_part(part)
    return out
