"""Compare a slide with the training patches before the scan, by patches from all over it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import SlideError
from slidescan.geometry import Box, Grid
from slidescan.models import familiarity
from slidescan.models.reference import Reference
from slidescan.protocols import Reader, read_with_gaps
from slidescan.scanning.selection import Selection
from slidescan.scanning.verification import draw
from slidescan.slides import tissue
from slidescan.tools.settings_diff import JSON


@dataclass(frozen=True, slots=True)
class Looks:
    """How a slide looks beside the training patches."""

    record: dict[str, JSON]
    """what the map records"""
    warning: str = ""
    """empty where nothing is wrong"""


def compare_with_training(
    reader: Reader,
    grid: Grid,
    selected: Selection,
    references: Sequence[Reference | None],
    threads: int,
) -> Looks:
    """Judge a slide by patches of its tissue, or by its overview where no model can."""
    he_like, found = selected.he_like, None
    if any(references) and selected.mask.any():
        patches = sample(reader, grid, selected.mask, familiarity.ENOUGH, threads)
        found = familiarity.judge(patches, references)
    record: dict[str, JSON] = {"he_like": he_like, "unlike": found.record() if found else None}
    if found and found.unlike:
        return Looks(record, found.warning())
    if found is None and he_like is not None and he_like < tissue.HE_LIKE:
        # Models of earlier versions have no reference, and small slides too few patches.
        return Looks(
            record,
            "unlike a slide stained with H&E on white glass: green is the lowest channel in "
            f"{he_like:.0%} of the tissue, where {tissue.HE_LIKE:.0%} or more is expected; the "
            "models were trained on H&E alone",
        )
    return Looks(record)


def sample(
    reader: Reader, grid: Grid, mask: NDArray[np.bool_], count: int, threads: int
) -> NDArray[np.uint8]:
    """Read the fields of view of up to `count` selected cells, the same ones in every run.

    (N, H, W, 3). Cells whose pixels are missing or cannot be read are left out; the scan reports
    them.
    """

    def read(cell: Box) -> NDArray[np.uint8] | None:
        try:
            pixels, missing = read_with_gaps(reader, grid.pixels(cell))
        except SlideError:
            return None
        return None if missing is not None and missing.any() else pixels

    with ThreadPoolExecutor(threads, "sample") as pool:
        patches = [each for each in pool.map(read, draw(mask, count, seed=0)) if each is not None]
    side = grid.field_px
    return np.stack(patches) if patches else np.empty((0, side, side, 3), np.uint8)
