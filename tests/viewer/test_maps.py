"""What the page gets of a map: every number equals the map's on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
from starlette.testclient import TestClient
from viewing import ask, begin, cells, finish, map_of, whole
from waiting import wait_until

from slidescan.api.maps import open_map
from slidescan.maps.regions import Rule, find_regions


def test_the_description_places_the_map(viewer: TestClient, scanned: Path) -> None:
    found, heatmap = viewer.get(map_of(viewer)).json(), open_map(scanned)
    assert (found["rows"], found["columns"]) == heatmap.shape
    assert found["cell_l0"] == pytest.approx(heatmap.cell_l0)
    assert found["levels"][0] == {"rows": heatmap.shape[0], "columns": heatmap.shape[1]}
    assert found["tissue_cells"] == np.count_nonzero(heatmap.tissue)
    assert found["cell_mm2"] == pytest.approx((8 * 0.972e-3) ** 2)
    assert found["complete"]


def test_a_tile_has_the_values_of_the_map(viewer: TestClient, scanned: Path) -> None:
    heatmap = open_map(scanned)
    values, coverage = cells(viewer, f"{map_of(viewer)}/tiles/0/0_0")
    assert np.array_equal(values, heatmap.values, equal_nan=True)
    assert np.array_equal(coverage, np.where(np.isfinite(heatmap.values), 255, 0))


@pytest.mark.usefixtures("small_blocks")
def test_coarse_tiles_say_how_much_was_scanned(
    section: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slidescan.maps.ngff.LEVEL_CELLS", 32)
    made, values = begin(tmp_path / "map.zarr", section)
    finish(made, values)
    with ask(section, tmp_path / "map.zarr") as client:
        for level in (1, 2):
            coarse, coverage = cells(client, f"{map_of(client)}/tiles/{level}/0_0")
            assert np.array_equal(coarse, whole(made, level), equal_nan=True)
            step = 1 << level
            for (row, column), share in np.ndenumerate(coverage):
                y, x = row * step, column * step
                scanned = np.isfinite(values[y : y + step, x : x + step]).mean() * 255
                assert share == pytest.approx(scanned, abs=1), (level, row, column)
            assert ((coverage > 0) & (coverage < 255)).any()


@pytest.mark.parametrize("place", ["0/1_0", "9/0_0", "-1/0_0", f"0/0_{9**40}", "0/0_0.5"])
def test_map_tiles_outside_are_not_found(viewer: TestClient, place: str) -> None:
    assert viewer.get(f"{map_of(viewer)}/tiles/{place}").status_code == 404


def test_the_histogram_counts_every_cell(viewer: TestClient, scanned: Path) -> None:
    found = viewer.get(f"{map_of(viewer)}/histogram").json()
    values = open_map(scanned).values
    finite = values[np.isfinite(values)]
    assert sum(found["counts"]) == finite.size
    assert found["edges"][0] == 0
    assert found["edges"][-1] == 1
    above = sum(found["counts"][500:])
    assert above == np.count_nonzero(finite >= 0.5)


def test_the_list_gives_the_highest_value_once_it_is_known(
    viewer: TestClient, scanned: Path
) -> None:
    def highest() -> float | None:
        value: float | None = viewer.get("/api/slides").json()["slides"][0]["maps"][0]["highest"]
        return value

    assert wait_until(lambda: highest() is not None)
    assert highest() == pytest.approx(float(np.nanmax(open_map(scanned).values)))


def test_a_cell_is_found_by_its_position(viewer: TestClient, scanned: Path) -> None:
    heatmap, address = open_map(scanned), f"{map_of(viewer)}/cell"
    row, column = np.argwhere(np.isfinite(heatmap.values))[7].tolist()
    x, y = heatmap.x_l0[column], heatmap.y_l0[row]
    found = viewer.get(address, params={"x": x, "y": y}).json()
    assert (found["row"], found["column"]) == (row, column)
    assert found["p"] == heatmap.values[row, column]
    assert (found["x_um"], found["y_um"]) == (heatmap.x_um[column], heatmap.y_um[row])
    row, column = np.argwhere(np.isnan(heatmap.values))[0].tolist()
    x, y = heatmap.x_l0[column], heatmap.y_l0[row]
    assert viewer.get(address, params={"x": x, "y": y}).json()["p"] is None


@pytest.mark.parametrize(
    ("query", "status"),
    [("x=-1&y=5", 404), ("x=1e9&y=5", 404), ("x=nan&y=5", 404), ("x=5", 400), ("x=a&y=5", 400)],
)
def test_positions_that_are_no_cell_are_refused(
    viewer: TestClient, query: str, status: int
) -> None:
    for what in ("cell", "patch"):
        answer = viewer.get(f"{map_of(viewer)}/{what}?{query}")
        assert answer.status_code == status
        assert set(answer.json()) == {"error"}


def test_regions_are_those_of_the_map(viewer: TestClient, scanned: Path) -> None:
    heatmap = open_map(scanned)
    at = float(np.nanquantile(heatmap.values, 0.9))
    found = viewer.get(f"{map_of(viewer)}/regions", params={"threshold": at}).json()
    expected = find_regions(heatmap.heatmap, Rule(at))
    assert found["found"] == len(found["regions"]) == len(expected) > 1
    for shown, region in zip(found["regions"], expected, strict=True):
        assert shown["number"] == region.number
        assert shown["area_mm2"] == pytest.approx(region.area_um2 / 1e6)
        assert shown["box"] == pytest.approx(region.box_l0)
        drawn = shapely.Polygon(shown["outline"][0], shown["outline"][1:])
        assert drawn.symmetric_difference(region.outline).area < 0.01 * region.outline.area


@pytest.mark.parametrize("threshold", ["0", "-1", "2", "nan", "sens95", "inf"])
def test_thresholds_that_are_none_are_refused(viewer: TestClient, threshold: str) -> None:
    answer = viewer.get(f"{map_of(viewer)}/regions", params={"threshold": threshold})
    assert answer.status_code == 400
    assert threshold in answer.json()["error"]


@pytest.mark.parametrize("most", [1024, 40])
def test_tissue_is_outlined_around_its_cells(
    viewer: TestClient, scanned: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slidescan.viewer.areas.TISSUE_CELLS", most)
    heatmap = open_map(scanned)
    outlines = viewer.get(f"{map_of(viewer)}/tissue").json()["outlines"]
    drawn = shapely.union_all([shapely.Polygon(shell, holes) for shell, *holes in outlines])
    area = heatmap.tissue.sum() * np.prod(heatmap.cell_l0)
    assert drawn.area == pytest.approx(area, rel=0.03 if most == 1024 else 0.1)
    y, x = np.array(np.nonzero(heatmap.tissue))[:, ::97]
    points = shapely.points(heatmap.x_l0[x], heatmap.y_l0[y])
    assert drawn.contains(points).all()


def test_the_patch_classifier_says_what_the_map_says(
    section: Path, scanned: Path, tiny_model: Path
) -> None:
    heatmap = open_map(scanned)
    row, column = np.argwhere(np.isfinite(heatmap.values))[1234].tolist()
    at = {"x": heatmap.x_l0[column], "y": heatmap.y_l0[row]}
    with ask(section, scanned, models=(str(tiny_model),)) as client:
        found = client.get(f"{map_of(client)}/patch", params=at).json()
        assert (found["row"], found["column"]) == (row, column)
        assert found["map_p"] == heatmap.values[row, column]
        assert found["difference"] <= 1e-5
        x, y, width, height = found["box"]
        assert (x + width / 2, y + height / 2) == pytest.approx((at["x"], at["y"]))
        assert (width, height) == pytest.approx((96, 96))
        row, column = np.argwhere(np.isnan(heatmap.values))[0].tolist()
        at = {"x": heatmap.x_l0[column], "y": heatmap.y_l0[row]}
        answer = client.get(f"{map_of(client)}/patch", params=at)
        assert answer.status_code == 409
        assert "not scanned" in answer.json()["error"]
    with ask(section, scanned, models=("fast",)) as client:
        answer = client.get(f"{map_of(client)}/patch", params={"x": 300, "y": 350})
        assert answer.status_code == 503
        assert "--model" in answer.json()["error"]
