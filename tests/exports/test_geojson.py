"""`slidescan export geojson`: what QuPath, shapely and a validator of RFC 7946 read from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import shapely
from commands import ran, refused, run
from lesions import Values, disc, ring
from scipy import ndimage
from slide_study import write_map

from slidescan.annotations.rasters import rasterise
from slidescan.exports.qupath import COLOUR

PITCH_L0 = (15.0, 30.0)
"""level-0 px a cell of `write_map`, (x, y)"""


@pytest.fixture(scope="module")
def values() -> Values:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 0.4, (120, 200)).astype(np.float32)
    values[ring(values.shape, 40, 50, 6, 20)] += 0.5
    values[disc(values.shape, 80, 150, 8)] += 0.55
    values[:5] = np.nan
    return values


@pytest.fixture(scope="module")
def map_path(tmp_path_factory: pytest.TempPathFactory, values: Values) -> Path:
    return write_map(tmp_path_factory.mktemp("geojson") / "map.zarr", values)


def export(map_path: Path, out: Path, *more: object) -> dict[str, Any]:
    ran("export", "geojson", map_path, "--out", out, *more)
    found: dict[str, Any] = json.loads(out.read_text())
    check_rfc_7946(found)
    return found


def check_rfc_7946(collection: dict[str, Any]) -> None:
    """The rules that concern a collection of polygons."""
    assert collection["type"] == "FeatureCollection"
    assert "crs" not in collection  # 4: removed
    for feature in collection["features"]:
        assert feature["type"] == "Feature"
        assert isinstance(feature["properties"], dict)
        assert isinstance(feature["id"], str)
        assert feature["geometry"]["type"] == "Polygon"
        for index, corners in enumerate(feature["geometry"]["coordinates"]):
            assert len(corners) >= 4  # 3.1.6
            assert corners[0] == corners[-1]
            assert all(len(corner) == 2 for corner in corners)
            assert shapely.LinearRing(corners).is_ccw == (index == 0)
        assert shapely.geometry.shape(feature["geometry"]).is_valid


def check_qupath(feature: dict[str, Any], kind: str) -> None:
    """What QuPath's PathObjectTypeAdapters and PathClassTypeAdapter read without a complaint."""
    has = feature["properties"]
    assert str(UUID(feature["id"])) == feature["id"]
    assert has["objectType"] == kind
    assert all(isinstance(value, float) for value in has["measurements"].values())
    assert all(isinstance(value, str) for value in has.get("metadata", {}).values())
    if "classification" in has:
        assert set(has["classification"]) == {"name", "color"}
        assert all(0 <= each <= 255 for each in has["classification"]["color"])


def polygons(collection: dict[str, Any]) -> list[shapely.Polygon]:
    return [shapely.geometry.shape(each["geometry"]) for each in collection["features"]]


def test_regions_are_what_qupath_reads(map_path: Path, tmp_path: Path, values: Values) -> None:
    found = export(map_path, tmp_path / "map.geojson")
    first, second = found["features"]
    for feature in (first, second):
        check_qupath(feature, "annotation")
    has = second["properties"]
    assert has["isLocked"] is True
    assert has["name"] == "Region 2"
    assert has["classification"] == {"name": "Tumor candidate", "color": list(COLOUR)}
    inside = values[ring(values.shape, 40, 50, 6, 20)]
    assert has["measurements"]["P(tumour) max"] == pytest.approx(inside.max(), abs=1e-6)
    assert has["measurements"]["P(tumour) mean"] == pytest.approx(inside.mean(), abs=1e-6)
    assert has["metadata"] == {"Size class": "micro"}
    about = found["slidescan"]
    assert about["slide"] == "map.tif"
    assert about["rule"] == {"threshold": 0.5, "low": None, "min_area_um2": 900.0}
    assert "um beyond tumour" in about["note"]


def test_regions_drawn_back_are_the_cells(map_path: Path, tmp_path: Path, values: Values) -> None:
    found = export(map_path, tmp_path / "map.geojson")
    drawn = rasterise(polygons(found), values.shape, PITCH_L0)
    expected = ndimage.binary_opening(values >= 0.5, np.ones((4, 4)))  # single hot cells go
    assert expected.sum() > 1000
    dice = 2 * (drawn & expected).sum() / (drawn.sum() + expected.sum())
    assert dice > 0.99


def test_identifiers_are_stable_and_follow_the_rule(map_path: Path, tmp_path: Path) -> None:
    def ids(name: str, *more: object) -> list[str]:
        found = export(map_path, tmp_path / name, *more)
        return [each["id"] for each in found["features"]]

    first = ids("a.geojson")
    assert ids("b.geojson") == first
    assert not set(ids("c.geojson", "--threshold", 0.6)) & set(first)
    tiles = ids("d.geojson", "--tiles", "--threshold", 0.6)
    assert len(set(tiles)) == len(tiles)
    assert set(ids("e.geojson", "--tiles", "--threshold", 0.9)) < set(tiles)


def test_coordinates_follow_the_crop_of_qupath(
    map_path: Path, tmp_path: Path, values: Values
) -> None:
    bounds = {"bounds_l0": [200, 100, 2000, 3000]}
    cropped = write_map(tmp_path / "mrxs.zarr", values, provenance=bounds)
    plain = polygons(export(cropped, tmp_path / "plain.geojson", "--no-crop"))
    result = ran("export", "geojson", cropped, "--out", tmp_path / "map.geojson")
    found = json.loads((tmp_path / "map.geojson").read_text())
    assert "minus (200, 100)" in result.stdout
    assert found["slidescan"]["corner_l0"] == [200, 100]
    assert "openslide.bounds-x" in found["slidescan"]["coordinates"]
    for here, there in zip(polygons(found), plain, strict=True):
        moved = shapely.transform(here, lambda points: np.add(points, (200, 100)))
        assert shapely.hausdorff_distance(moved, there) < 0.02
    tiles = export(cropped, tmp_path / "tiles.geojson", "--tiles", "--threshold", 0.9)
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    assert polygons(tiles)[0].bounds[:2] == (column * 15 - 200, row * 30 - 100)
    older = ran("export", "geojson", map_path, "--out", tmp_path / "older.geojson")
    assert "--slide" in older.stderr


def test_tiles_are_the_hottest_cells_first(map_path: Path, tmp_path: Path, values: Values) -> None:
    found = export(map_path, tmp_path / "tiles.geojson", "--tiles", "--limit", 500)
    assert found["slidescan"]["cells"] == 500
    assert found["slidescan"]["cells_left_out"] == (values >= 0.5).sum() - 500
    assert "--limit" in found["slidescan"]["note"]
    for feature in found["features"]:
        check_qupath(feature, "tile")
    written = [each["properties"]["measurements"]["P(tumour)"] for each in found["features"]]
    assert written == pytest.approx(np.sort(values[values >= 0.5])[:-501:-1], abs=1e-6)
    for polygon, p in zip(polygons(found)[:20], written, strict=False):
        x, y = polygon.centroid.x, polygon.centroid.y
        assert values[int(y // 30), int(x // 15)] == pytest.approx(p, abs=1e-6)
        assert polygon.area == pytest.approx(15 * 30)


def test_a_tile_at_the_edge_is_cut(tmp_path: Path) -> None:
    hot = np.full((20, 30), 0.9, np.float32)
    path = write_map(tmp_path / "map.zarr", hot, slide={"extent_l0": [20 * 30 - 7, 30 * 15 - 4]})
    found = export(path, tmp_path / "tiles.geojson", "--tiles")
    bounds = shapely.total_bounds(polygons(found))
    assert bounds.tolist() == [0, 0, 30 * 15 - 4, 20 * 30 - 7]


def test_nothing_above_the_threshold_is_an_empty_collection(map_path: Path, tmp_path: Path) -> None:
    for more in ([], ["--tiles"]):
        out = tmp_path / f"none{len(more)}.geojson"
        found = export(map_path, out, "--threshold", 0.999, *more)
        assert found["features"] == []
    result = ran(
        "export", "geojson", map_path, "--threshold", 1, "--out", tmp_path / "none.geojson"
    )
    assert "no regions" in result.stdout


def test_the_script_reads_the_file(map_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "it's a $map.geojson"
    export(map_path, out, "--script", "--tiles")
    script = out.with_suffix(".groovy").read_text()
    escaped = str(out).replace("'", "\\'")
    assert f"new File('{escaped}')" in script
    assert "'P(tumour)', tiles)" in script
    assert script.count("{") == script.count("}")
    assert "{{" not in script
    refused(run("export", "geojson", map_path, "--script", "--out", out), "--overwrite")


def test_what_exists_stays_and_what_has_no_effect_is_refused(
    map_path: Path, tmp_path: Path, slide_folder: Path
) -> None:
    out = tmp_path / "map.geojson"
    out.write_text("precious")
    refused(run("export", "geojson", map_path, "--out", out), "exists", "--overwrite")
    assert out.read_text() == "precious"
    other = slide_folder / "checkerboard.tif"
    new = tmp_path / "new.geojson"
    refused(
        run("export", "geojson", map_path, "--slide", other, "--out", new),
        "map.tif",
        "another slide",
    )
    refused(run("export", "geojson", map_path, "--out", tmp_path / "map.csv"), ".geojson or .json")
    for options in (["--tiles", "--low", 0.2], ["--limit", 5], ["--tiles", "--class", "Tumor"]):
        result = run("export", "geojson", map_path, "--out", new, *options)
        assert result.exit_code == 2
        assert options[-2] in result.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["map.geojson"]


def test_an_unfinished_map_says_so_in_the_file(tmp_path: Path, values: Values) -> None:
    path = write_map(tmp_path / "map.zarr", np.tile(values, (1, 2)), blocks=1)
    out = tmp_path / "map.geojson"
    refused(run("export", "geojson", path, "--out", out), "not finished (64.0%", "--partial")
    found = export(path, out, "--partial")
    assert found["slidescan"]["scanned_share"] == 0.64
    assert found["features"]
