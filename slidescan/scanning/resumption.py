"""Resume a map although the slide's file has changed: a copy was damaged and has been replaced."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from slidescan.errors import MapError
from slidescan.maps.record import find_record
from slidescan.maps.store import Heatmap
from slidescan.protocols import Engine
from slidescan.scanning.verification import compare, draw
from slidescan.slides.fingerprint import covers_file, same_quickhash, same_slide
from slidescan.slides.plane import Plane
from slidescan.tools.urls import Place

CELLS = 64
"""How many finished cells are compared with the file as it is now."""


def fingerprint_for(out: Place, own: str) -> str:
    """The fingerprint to compare a map at `out` by: that of its record, if it may be resumed.

    `own` is that of the slide's file. A record of an earlier version has less of it. A map that is
    not complete may be of a damaged copy of this file, which `check_finished` finds out.
    """
    try:
        record = find_record(out) or {}
        there, complete = record["settings"]["slide"]["fingerprint"], record["complete"]
        fits = same_slide(own, there) or (same_quickhash(own, there) and complete is False)
    except (LookupError, TypeError, AttributeError):
        return own  # no map, or one whose record is broken
    return str(there) if fits else own


def changed(heatmap: Heatmap, own: str) -> bool:
    """Whether the file is another than the one that the map was begun with."""
    there = heatmap.settings["slide"]["fingerprint"]
    return covers_file(there) and there != own


def check_finished(
    heatmap: Heatmap, plane: Plane, engine: Callable[[], Engine], tolerance: float
) -> int:
    """Compare finished cells of a map with the slide's file; returns how many.

    Raises MapError where one differs by more than `tolerance`.
    """
    finished = np.zeros(heatmap.grid.shape, np.bool_)
    for block in heatmap.blocks():
        if heatmap.done(block):
            finished[block.slices] = heatmap.scanned[block.slices]
    cells = draw(finished, CELLS, seed=0)
    if not cells:
        return 0
    found = compare(heatmap, plane, engine(), cells)
    if not found.largest <= tolerance:
        raise MapError(
            f"{heatmap.path}: begun with another file, in which finished cells differ by "
            f"{found.largest:.2g}; pass --overwrite or choose another --out"
        )
    return len(cells)
