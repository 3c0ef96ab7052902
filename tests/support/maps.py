"""Maps in tests: options that keep a scan quick, and what a map holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.maps.store import Heatmap

ONE = ("--threads", "1")  # on busy cores two wait for each other
TORCH = ("--engine", "torch", *ONE)
FEW = ("--cells", "32", *ONE)


def nothing_whole(out: Path) -> None:
    """`out` is not there, or no command takes it for a map."""
    if out.exists():
        assert not Heatmap.open(out).complete
    assert not list(out.parent.glob(".*")), "leftovers"


def read(out: Path) -> NDArray[np.float32]:
    """All values of a finished map, (h, w)."""
    heatmap = Heatmap.open(out)
    assert heatmap.complete
    return heatmap.read(heatmap.grid.cells)


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a map but the root's metadata, which holds the times of its scan."""
    files = (file for file in sorted(out.rglob("*")) if file.is_file())
    found = {str(file.relative_to(out)): file.read_bytes() for file in files}
    del found["zarr.json"]
    return found
