"""Exports lie on the slide: a checkerboard of odd sizes that QuPath crops, at two strides."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
import slides
from commands import ran
from numpy.typing import NDArray
from scipy.spatial import KDTree

from slidescan.geometry import Box, Grid
from slidescan.maps.store import Heatmap
from slidescan.slides import properties
from slidescan.slides.slide import Slide

SIDE_L0 = 150
"""Side of a block of the checkerboard, level-0 px; no multiple of a cell."""

SHAPE_L0 = (727, 901)
BOUNDS = Box(205, 317, 703, 840)
"""What the slide's scanner says it scanned, level-0 px."""


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("positions") / "board.tif"
    slides.write_slide(path, slides.checkerboard(*SHAPE_L0, side=SIDE_L0), mpp=0.25, levels=(4,))
    return path


@pytest.fixture(params=[8, 4])
def map_path(request: pytest.FixtureRequest, slide_path: Path, tmp_path: Path) -> Path:
    """Cells are hot where the slide's pixel at their centre is blue; all are scanned."""
    with Slide.open(slide_path) as slide:
        plane = slide.plane(0.972)
        centre = slide.mpp[0] / plane.mpp
        grid = Grid(plane.shape_px, request.param)
        y, x = (
            np.minimum((np.arange(n) + 0.5) * grid.stride / centre, most - 1).astype(int)
            for n, most in zip(grid.shape, slide.extent_l0, strict=True)
        )
        settings = {
            "slide": {
                "fingerprint": slide.fingerprint,
                "mpp": list(slide.mpp),
                "extent_l0": list(slide.extent_l0),
            },
            "model": {"name": "board", "sha256": "ab"},
        }
    values = np.where(blue()[np.ix_(y, x)], 0.9, 0.1).astype(np.float32)
    with Heatmap.create(
        tmp_path / "board.zarr",
        grid=grid,
        mpp=plane.mpp,
        mask=np.ones(grid.shape, bool),
        settings=settings,
        provenance={"slide": slide_path.name},
    ) as heatmap:
        for block in heatmap.blocks():
            heatmap.write(block, values[block.slices])
        heatmap.finish({})
    return tmp_path / "board.zarr"


@pytest.fixture(autouse=True)
def _bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slide records BOUNDS, as MIRAX slides do."""
    monkeypatch.setattr(properties, "find_bounds", lambda recorded, whole: BOUNDS)


def blue() -> NDArray[np.bool_]:
    """Which level-0 px lie in every other block."""
    hot: NDArray[np.bool_] = slides.checkerboard(*SHAPE_L0, side=SIDE_L0)[..., 2] > 130
    return hot


def points() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and y of the centres of every third pixel."""
    y, x = np.mgrid[1 : SHAPE_L0[0] : 3, 1 : SHAPE_L0[1] : 3] + 0.5
    return x.ravel(), y.ravel()


def error_l0(hot: NDArray[np.bool_]) -> float:
    """How far from an edge between blocks a point lies that was exported as the other kind."""
    x, y = points()
    wrong = hot != blue()[y.astype(int), x.astype(int)]
    assert wrong.mean() < 0.2
    away = [np.abs(each - SIDE_L0 * np.rint(each / SIDE_L0)) for each in (x, y)]
    return float(np.minimum(*away)[wrong].max(initial=0))


@pytest.mark.parametrize(
    ("options", "corner"), [([], (317, 205)), (["--tiles"], (317, 205)), (["--no-crop"], (0, 0))]
)
def test_geojson(
    map_path: Path, slide_path: Path, tmp_path: Path, options: list[str], corner: tuple[int, int]
) -> None:
    out = tmp_path / "board.geojson"
    ran("export", "geojson", map_path, "--slide", slide_path, *options, "--out", out)
    features = json.loads(out.read_text())["features"]
    area = shapely.union_all([shapely.geometry.shape(each["geometry"]) for each in features])
    shapely.prepare(area)
    x, y = points()
    inside = shapely.contains_xy(area, x - corner[0], y - corner[1])
    cell_l0 = Heatmap.open(map_path).grid.stride * 0.972 / 0.25
    # Half a cell by the map's own grid, and less than half by the smooth outline of a region.
    assert error_l0(inside) <= (cell_l0 / 2 + 1 if "--tiles" in options else cell_l0)


def test_csv(map_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "cells.csv"
    ran("export", "csv", map_path, "--of", "cells", "--out", out)
    with out.open() as file:
        rows = list(csv.DictReader(file))
    centres = [(float(row["x_l0"]), float(row["y_l0"])) for row in rows]
    _, nearest = KDTree(centres).query(np.stack(points(), axis=1))
    hot = np.array([float(row["p"]) > 0.5 for row in rows])[nearest]
    cell_l0 = Heatmap.open(map_path).grid.stride * 0.972 / 0.25
    assert error_l0(hot) <= cell_l0 / 2 + 1


def test_a_scan_records_the_bounds(
    slide_folder: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = Box(5, 7, 45, 67)
    monkeypatch.setattr(properties, "find_bounds", lambda recorded, whole: bounds)
    out = tmp_path / "map.zarr"
    ran(
        *("heatmap", slide_folder / "tiny.tif", "--out", out, "--model", tiny_model),
        *("--engine", "torch", "--threads", 1),
    )
    assert Heatmap.open(out).provenance["bounds_l0"] == [7, 5, 60, 40]
    result = ran("export", "geojson", out, "--out", tmp_path / "map.geojson")
    assert not result.stderr
    assert json.loads((tmp_path / "map.geojson").read_text())["slidescan"]["corner_l0"] == [7, 5]
