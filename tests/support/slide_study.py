"""Maps and annotations of a small evaluation of slides, and `slidescan evaluate slides` on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import commands
import numpy as np
from click.testing import Result
from lesions import UM, Values

from slidescan.geometry import Grid
from slidescan.maps.store import Heatmap

SHAPE = (120, 200)
STRIDE, MPP = 8, UM / 8
SLIDE_MPP = (0.25, 0.5)
"""um/px, (y, x): 30 x 15 level-0 px a cell, so that an x/y swap shows."""
FEW = ("--resamples", "20")


def run(*arguments: object) -> Result:
    """Run `slidescan evaluate slides ARGUMENTS`; an exception is raised here."""
    return commands.run("evaluate", "slides", *arguments)


def ran(*arguments: object) -> Result:
    return commands.ran("evaluate", "slides", *arguments)


def refused(result: Result, *words: object) -> None:
    """Check that it failed, and that the first error has all the words."""
    assert result.exit_code == 1
    first = result.stderr.splitlines()[0]
    assert first.startswith("Error: ")
    assert len(first) < 600
    for word in words:
        assert str(word) in first, first


def write_map(path: Path, values: Values, **changes: Any) -> Path:
    """Write a map of these cells; `blocks` is how many are written, and leaves it unfinished."""
    rows, columns = values.shape
    mask = np.isfinite(values)
    slide = {
        "fingerprint": f"test:{path.stem}",
        "mpp": list(SLIDE_MPP),
        "extent_l0": [rows * 30, columns * 15],
    }
    model = {"name": "tiny", "sha256": "ab" * 32}
    with Heatmap.create(
        path,
        grid=Grid((rows * STRIDE, columns * STRIDE), STRIDE),
        mpp=MPP,
        mask=mask,
        settings={
            "slide": slide | changes.get("slide", {}),
            "model": changes.get("model", model),
            **changes.get("settings", {}),
        },
        provenance={"slide": changes.get("name", f"{path.stem}.tif")}
        | changes.get("provenance", {}),
    ) as made:
        for block in list(made.missing())[: changes.get("blocks")]:
            made.write(block, values[block.slices])
        if "blocks" not in changes:
            made.finish({})
    return path


def rectangle_l0(top: int, left: int, height: int, width: int) -> list[list[float]]:
    """The outline of a rectangle of cells, (x, y) in level-0 px."""
    y0, y1, x0, x1 = top * 30, (top + height) * 30, left * 15, (left + width) * 15
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def annotate(path: Path, *rectangles: tuple[int, int, int, int]) -> None:
    polygons = [{"name": f"L{i}", "vertices": rectangle_l0(*r)} for i, r in enumerate(rectangles)]
    path.write_text(json.dumps({"positive": polygons, "negative": []}))


def arguments(study: Path, *more: object) -> tuple[object, ...]:
    given = (study / "maps", "--annotations", study / "annotations", "--normal-prefix", "normal_")
    return (*given, *FEW, *more)


def metrics(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


def values(out: Path) -> dict[str, float]:
    return {key: m["value"] for key, m in metrics(out)["metrics"].items()}
