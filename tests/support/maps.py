"""Maps as tests compare them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.maps.store import Heatmap


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
