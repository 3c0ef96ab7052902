"""Maps that the command line makes in tests: options that keep it quick, and their values."""

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
    heatmap = Heatmap.open(out)
    assert heatmap.complete
    return heatmap.read(heatmap.grid.cells)
