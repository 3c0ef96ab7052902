"""What the page gets of slides: descriptions, tiles, thumbnails, and errors in one line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import annotation_files
import numpy as np
import pytest
import slides
from PIL import Image
from starlette.testclient import TestClient
from viewing import ask, described, picture

from slidescan.viewer.opened import Kept, Opened


def test_the_tiles_of_a_level_are_the_slide(tmp_path: Path) -> None:
    pixels = slides.waves(701, 1301)
    slides.write_slide(tmp_path / "waves.tif", pixels, levels=(2,))
    with ask(tmp_path / "waves.tif") as client:
        found = described(client)
        assert (found["width"], found["height"], found["tile_px"]) == (1301, 701, 512)
        assert found["levels"][-1] == {"width": 1301, "height": 701}
        assert found["levels"][0] == {"width": 326, "height": 176}
        tiles = f"/api/slides/{found['id']}/tiles"
        rows = [
            np.hstack([picture(client, f"{tiles}/2/{column}_{row}.jpg") for column in range(3)])
            for row in range(2)
        ]
        whole = np.vstack(rows)
        assert whole.shape == pixels.shape
        assert np.abs(whole.astype(float) - pixels).mean() < 2  # JPEG


@pytest.mark.parametrize("levels", [(), (4,), (2, (301, 201))], ids=str)
def test_coarse_tiles_are_means_whatever_levels_the_file_has(
    tmp_path: Path, levels: tuple[int, ...]
) -> None:
    pixels = slides.waves(1203, 805)
    slides.write_slide(tmp_path / "waves.tif", pixels, levels=levels, tile=256)
    opened = Opened.open("key", tmp_path / "waves.tif", None, Kept())
    for level, step in (0, 4), (1, 2):
        height, width = opened.zoom.levels[level]
        content = opened.tile(level, 0, 0)
        assert content
        found = np.asarray(Image.open(io.BytesIO(content)))[:-3, :-3]
        expected = [
            pixels[y * step : (y + 1) * step, x * step : (x + 1) * step].mean((0, 1))
            for y, x in ((0, 0), (30, 100), (190, 77))
        ]
        for (y, x), mean in zip(((0, 0), (30, 100), (190, 77)), expected, strict=True):
            assert np.abs(found[y, x] - mean).max() < 12, (level, y, x)  # JPEG
        assert found.shape == (min(height, 512) - 3, min(width, 512) - 3, 3)


@pytest.mark.parametrize(
    "place",
    ["0/1_0", "0/0_1", "9/0_0", "-1/0_0", "0/-1_0", "0/0_-1", f"0/{9**30}_0", "0/a_0", "0/0_0/x"],
)
def test_tiles_outside_the_slide_are_not_found(viewer: TestClient, place: str) -> None:
    found = described(viewer)
    answer = viewer.get(f"/api/slides/{found['id']}/tiles/{place}.jpg")
    assert answer.status_code == 404
    assert "\n" not in answer.json()["error"]


def test_a_damaged_tile_is_an_error_and_the_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "damaged.tif"
    slides.write_slide(path, slides.noise(600, 1100), tile=256, compression="jpeg")
    slides.spoil_tile(path, row=0, column=3)
    with ask(path) as client:
        tiles = f"/api/slides/{described(client)['id']}/tiles"
        for _ in range(2):
            answer = client.get(f"{tiles}/2/1_0.jpg")
            assert answer.status_code == 503
            assert "damaged" in answer.json()["error"]
            assert client.get(f"{tiles}/2/0_0.jpg").status_code == 200
            assert client.get(f"{tiles}/2/1_1.jpg").status_code == 200


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    path = tmp_path / "hole.tif"
    slides.write_slide(path, slides.checkerboard(512, 512), tile=128)
    slides.drop_tile(path, row=1, column=2)
    with ask(path) as client:
        tile = picture(client, f"/api/slides/{described(client)['id']}/tiles/0/0_0.jpg")
    assert tile[140:240, 270:370].min() >= 250


def test_a_slide_without_resolution_is_shown_and_says_so(slide_folder: Path) -> None:
    with ask(slide_folder / "no-mpp.tif") as client:
        found = described(client)
    assert found["mpp"] is None
    assert "--mpp" in found["warnings"][0]
    with ask(slide_folder / "no-mpp.tif", mpp=0.5) as client:
        assert described(client)["mpp"] == [0.5, 0.5]


def test_the_thumbnail_is_small(viewer: TestClient) -> None:
    entry = viewer.get("/api/slides").json()["slides"][0]
    assert max(picture(viewer, "/" + entry["thumbnail"]).shape) == 256


def test_unknown_slides_and_addresses_are_not_found(viewer: TestClient, section: Path) -> None:
    for address in (
        "/api/slides/0",
        f"/api/slides/{section}",
        "/api/slides/..%2f..%2fetc%2fpasswd",
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/elsewhere",
    ):
        answer = viewer.get(address)
        assert answer.status_code == 404, address
        assert set(answer.json()) == {"error"}


def test_annotations_become_rings(section: Path, tmp_path: Path) -> None:
    square = [(100.0, 200.0), (400.0, 200.0), (400.0, 500.0)]
    path = tmp_path / "section.geojson"
    path.write_text(json.dumps(annotation_files.feature(annotation_files.polygon(square))))
    with ask(section, annotations=(path,)) as client:
        found = described(client)
        (listed,) = found["annotations"]
        assert listed["name"] == "section.geojson"
        (outline,) = client.get(f"/api/slides/{found['id']}/annotations/{listed['id']}").json()[
            "outlines"
        ]
        assert client.get(f"/api/slides/{found['id']}/annotations/1").status_code == 404
    assert outline["class"] == "tumour"
    assert sorted(map(tuple, outline["rings"][0][:-1])) == sorted(square)
