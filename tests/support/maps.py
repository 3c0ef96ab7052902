"""Maps in tests: options that keep a scan quick, and what a map holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidescan.geometry import Grid
from slidescan.maps.store import Heatmap
from slidescan.slides.slide import Slide

ONE = ("--threads", "1")  # on busy cores two wait for each other
TORCH = ("--engine", "torch", *ONE)
FEW = ("--cells", "32", *ONE)
MPP = 0.972


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


def write_map(path: Path, slide_path: Path, values: NDArray[np.float32], **changes: Any) -> Path:
    """Write a map of these cells as if the slide had been scanned at 0.972 um/px, stride 8.

    Cells that are NaN are not selected. `changes` are added to the settings; `provenance` to the
    provenance. `blocks` is how many blocks are written, and leaves the map unfinished.
    """
    with Slide.open(slide_path) as slide:
        sides_um = np.multiply(slide.extent_l0, slide.mpp)
        height, width = np.ceil(sides_um / MPP - 1e-6).astype(int).tolist()
        grid = Grid((height, width), 8)
        settings = {
            "slide": {
                "fingerprint": slide.fingerprint,
                "mpp": slide.mpp,
                "extent_l0": slide.extent_l0,
            },
            "model": {"name": "tiny", "sha256": "ab" * 32},
        }
    blocks, provenance = changes.pop("blocks", None), changes.pop("provenance", {})
    gaps = changes.pop("gaps", np.zeros(values.shape, np.bool_))
    with Heatmap.create(
        path,
        grid=grid,
        mpp=MPP,
        mask=np.isfinite(values) | gaps,
        settings=settings | changes,
        provenance={"slide": slide_path.name} | provenance,
    ) as made:
        for block in list(made.missing())[:blocks]:
            made.write(block, values[block.slices], gaps[block.slices])
        if blocks is None:
            made.finish({})
    return path
