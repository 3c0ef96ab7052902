"""Verify that a map equals the patch classifier, by scoring cells again as patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import MapError
from slidescan.geometry import Box
from slidescan.maps.store import Heatmap
from slidescan.protocols import Engine
from slidescan.scanning.pipeline import score_patches
from slidescan.slides.fingerprint import same_slide
from slidescan.slides.plane import Plane
from slidescan.slides.slide import Slide


@dataclass(frozen=True, slots=True)
class Comparison:
    """The cells that were compared, and the differences between map and patch."""

    cells: tuple[Box, ...]
    differences: NDArray[np.float32]

    @property
    def worst(self) -> int:
        """Index of the cell that differs most; NaN on either side counts as infinite."""
        return int(np.nan_to_num(self.differences, nan=np.inf).argmax())

    @property
    def largest(self) -> float:
        return float(self.differences[self.worst])


def draw(mask: NDArray[np.bool_], count: int, seed: int) -> tuple[Box, ...]:
    """Draw up to `count` different selected cells at random, in the order of the map."""
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
    """Read each cell's 96 x 96 px from the slide, score them alone and compare with the map."""
    there = np.array([heatmap.read(cell)[0, 0] for cell in cells])
    here = np.empty_like(there)
    for i, score in enumerate(score_patches(cells, heatmap.grid, plane, engine)):
        here[i] = score
        on_cell()
    return Comparison(cells, np.abs(there - here))


@contextmanager
def open_slide_of(heatmap: Heatmap, path: Path) -> Iterator[Slide]:
    """Open the slide that a map was made from, at the resolution it was scanned with.

    Raises:
        SlideError: the slide cannot be opened.
        MapError: the map was made from another slide.
    """
    recorded = heatmap.settings["slide"]
    mpp_y, mpp_x = recorded["mpp"]
    # With a resolution given, the fingerprint is compared before a missing one is an error.
    skip = heatmap.settings.get("damaged") == "skip"
    with Slide.open(path, mpp_y, skip_damaged=skip) as slide:
        if not same_slide(slide.fingerprint, recorded["fingerprint"]):
            raise MapError(
                f"{heatmap.path}: made from {heatmap.provenance['slide']}, and {path} is another "
                "slide (their fingerprints differ); name the slide of the map"
            )
        if mpp_y == mpp_x:  # the slide's own, or that of --mpp
            yield slide
            return
    with Slide.open(path, skip_damaged=skip) as slide:
        yield slide
