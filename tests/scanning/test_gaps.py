"""A tile that the slide's file lacks: its cells are NaN, counted, listed and warned of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import slides
import zarr
from commands import ran, run
from numpy.typing import NDArray

from slidescan.geometry import Box
from slidescan.maps.finished import open_finished
from slidescan.maps.store import Heatmap
from slidescan.scanning import pipeline

pytestmark = pytest.mark.usefixtures("small_blocks")

TORCH = ("--engine", "torch", "--threads", 1)
ROW, COLUMN, SIDE = 5, 4, 64  # the tile that is dropped: level-0 px y 320..384, x 256..320
TILE = Box(ROW * SIDE, COLUMN * SIDE, (ROW + 1) * SIDE, (COLUMN + 1) * SIDE)


@pytest.fixture(scope="module")
def gapped(section: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copy(section, tmp_path_factory.mktemp("gapped")))
    slides.drop_tile(path, ROW, COLUMN)
    return path


def values(heatmap: Heatmap) -> NDArray[np.float32]:
    return heatmap.read(heatmap.grid.cells)


@pytest.mark.parametrize("tile_px", [72, 256])
def test_cells_that_see_a_missing_tile_are_not_scanned(
    section: Path,
    gapped: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tile_px: int,
) -> None:
    monkeypatch.setattr(pipeline, "TILE_PX", tile_px)
    tail = ("--model", tiny_model, *TORCH)
    ran("heatmap", section, "--out", tmp_path / "sound.zarr", *tail)
    result = ran("heatmap", gapped, "--out", tmp_path / "map.zarr", *tail)
    sound, heatmap = (open_finished(tmp_path / name) for name in ("sound.zarr", "map.zarr"))

    view = [heatmap.grid.pixels(Box(r, c, r + 1, c + 1)) for r, c in np.ndindex(heatmap.grid.shape)]
    sees = np.array([bool(box.clip(TILE).area) for box in view]).reshape(heatmap.grid.shape)
    assert heatmap.gaps is not None
    assert sound.gaps is None
    np.testing.assert_array_equal(heatmap.gaps, sees & heatmap.mask)
    np.testing.assert_array_equal(heatmap.mask, sound.mask)
    got, expected = values(heatmap), values(sound)
    assert np.isnan(got[sees]).all()
    # A tile of the scan that is cut elsewhere may sum in another order.
    np.testing.assert_allclose(got[~sees], expected[~sees], atol=1e-6, equal_nan=True)

    cells = int(heatmap.gaps.sum())
    assert cells > 200
    (line,) = result.stderr.splitlines()
    for word in ("Warning:", str(gapped), f"{cells} cells", "NaN", "level-0 x=", "compare"):
        assert word in line
    assert f"{int(heatmap.scanned.sum())} scanned" in result.stdout
    (box,) = heatmap.provenance["gaps"]["boxes_l0"]
    rows, columns = np.flatnonzero(sees.any(1)) * 8, np.flatnonzero(sees.any(0)) * 8
    # 8 px of 0.972 um are 8 level-0 px, but for the last digit of the recorded resolution.
    expected_box = (columns[0], rows[0], np.ptp(columns) + 8, np.ptp(rows) + 8)
    np.testing.assert_allclose(box, expected_box, atol=1)
    assert heatmap.provenance["gaps"]["cells"] == cells


def test_gaps_are_a_label_image_and_readers_see_nan(
    gapped: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "map.zarr"
    ran("heatmap", gapped, "--out", out, "--model", tiny_model, *TORCH)
    heatmap = open_finished(out)
    label = zarr.open_group(out / "labels/gaps", mode="r")
    gaps = heatmap.gaps
    assert gaps is not None
    np.testing.assert_array_equal(label["0"][:], gaps)
    assert (
        "42 cells scored"
        in ran("verify", gapped, out, "--cells", 42, "--model", tiny_model, *TORCH).stdout
    )
    ran("export", "png", out, "--slide", gapped, "--out", tmp_path / "map.png")
    # Said again by a run that finds the map complete.
    again = ran("heatmap", gapped, "--out", out, "--model", tiny_model, *TORCH)
    assert "complete already" in again.stdout
    assert "missing or damaged" in again.stderr


def test_a_gap_that_the_overview_has_as_well_is_not_taken_for_glass(
    tiny_model: Path, tmp_path: Path
) -> None:
    slide, out = tmp_path / "one-level.tif", tmp_path / "map.zarr"
    slides.write_slide(slide, slides.section(700, 900), mpp=0.972)
    slides.drop_tile(slide, ROW, COLUMN)
    result = ran("heatmap", slide, "--out", out, "--model", tiny_model, *TORCH)
    heatmap = open_finished(out)
    assert heatmap.gaps is not None
    assert heatmap.gaps[ROW * 8 : (ROW + 1) * 8, COLUMN * 8 : (COLUMN + 1) * 8].all()
    assert "missing or damaged" in result.stderr


@pytest.mark.parametrize("lost", ["labels/gaps/0/c/1/1", "0/c/1/1"])
def test_a_lost_shard_of_a_map_with_gaps_is_scanned_again(
    gapped: Path, tiny_model: Path, tmp_path: Path, lost: str
) -> None:
    out = tmp_path / "map.zarr"
    command = ("heatmap", gapped, "--out", out, "--model", tiny_model, *TORCH)
    ran(*command)
    before = values(open_finished(out)).tobytes()
    (out / lost).unlink()
    assert run("export", "png", out, "--slide", gapped, "--out", tmp_path / "a.png").exit_code == 1
    ran(*command)
    assert values(open_finished(out)).tobytes() == before
    record = json.loads((out / "zarr.json").read_text())["attributes"]["slidescan"]
    assert record["complete"]
