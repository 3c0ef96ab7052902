"""Damaged tiles: left out on request, and warned of where they decode all the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import slides
import tifffile
from commands import ran, refused, run
from maps import ONE, TORCH, read

from slidescan.geometry import Box
from slidescan.maps.finished import open_finished
from slidescan.slides.slide import Slide
from slidescan.slides.tile_check import jpeg_fault, one_colour

SIDE = 64
ROW, COLUMN = 5, 4
TILE = Box(ROW * SIDE, COLUMN * SIDE, (ROW + 1) * SIDE, (COLUMN + 1) * SIDE)


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A section whose tiles are JPEG."""
    path = tmp_path_factory.mktemp("jpeg") / "jpeg.tif"
    slides.write_slide(path, slides.section(500, 600), mpp=0.972, levels=(4,), compression="jpeg")
    return path


def tile_bytes(path: Path, level: int = 0) -> tuple[int, int]:
    """Offset and size of the tile."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[level]
        assert isinstance(page, tifffile.TiffPage)
        index = ROW * -(-page.imagewidth // page.tilewidth) + COLUMN
        return page.dataoffsets[index], page.databytecounts[index]


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def sees_the_tile(out: Path) -> np.ndarray:
    grid = open_finished(out).grid
    fields = [grid.pixels(Box(r, c, r + 1, c + 1)) for r, c in np.ndindex(grid.shape)]
    return np.array([bool(field.clip(TILE).area) for field in fields]).reshape(grid.shape)


@pytest.mark.usefixtures("small_blocks")
def test_skip_leaves_out_exactly_the_cells_that_see_the_damage(
    section: Path, tiny_model: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copy(section, tmp_path / "damaged.tif"))
    slides.spoil_tile(damaged, ROW, COLUMN)
    tail = ("--model", tiny_model, *TORCH)
    sound, out = tmp_path / "sound.zarr", tmp_path / "map.zarr"
    ran("heatmap", section, "--out", sound, *tail)
    refused(run("heatmap", damaged, "--out", out, *tail), "x=256, y=320", "--damaged skip")
    # The values of a stopped scan may be of damaged tiles that decode: they are not mixed.
    refused(run("heatmap", damaged, "--out", out, *tail, "--damaged", "skip"), "other settings")
    result = ran("heatmap", damaged, "--out", out, *tail, "--damaged", "skip", "--overwrite")
    gaps, blocks = result.stderr.splitlines()
    assert "missing or damaged" in gaps
    assert "1 block of the slide cannot be read" in blocks
    assert "on level 0 at level-0 x=256, y=320, 64 x 64 px" in blocks

    heatmap, sees = open_finished(out), sees_the_tile(out)
    expected = read(sound)
    assert (sees & heatmap.mask).any()
    expected[sees] = np.nan
    np.testing.assert_array_equal(read(out), expected)
    record = json.loads((out / "zarr.json").read_text())["attributes"]["slidescan"]["provenance"]
    (listed,) = record["damaged"]["listed"]
    assert (listed["level"], listed["box_l0"], listed["skipped"]) == (0, [256, 320, 64, 64], True)
    assert record["gaps"]["cells"] == np.count_nonzero(sees & heatmap.mask)
    ran("verify", damaged, out, "--model", tiny_model, "--cells", 8, *ONE)


def test_a_jpeg_tile_that_decodes_all_the_same_is_warned_of(
    jpeg: Path, tiny_model: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copy(jpeg, tmp_path / "damaged.tif"))
    at, size = tile_bytes(damaged)
    overwrite(damaged, at + size - 30, bytes(30))
    tail = ("--model", tiny_model, *TORCH)
    (line,) = ran("heatmap", damaged, "--out", tmp_path / "a.zarr", *tail).stderr.splitlines()
    assert "look damaged and were used" in line
    assert "x=256, y=320, 64 x 64 px: its JPEG data have no end" in line
    out = tmp_path / "b.zarr"
    ran("heatmap", damaged, "--out", out, *tail, "--damaged", "skip")
    sees = sees_the_tile(out)
    assert np.isnan(read(out)[sees]).all()
    np.testing.assert_array_equal(read(out)[~sees], read(tmp_path / "a.zarr")[~sees])


def test_a_coarse_level_that_cannot_be_read_is_replaced_by_a_finer_one(
    tiny_model: Path, tmp_path: Path
) -> None:
    slide, out = tmp_path / "slide.tif", tmp_path / "map.zarr"
    slides.write_slide(slide, slides.section(500, 600), mpp=0.972, levels=(4,))
    tail = ("--model", tiny_model, *TORCH)
    ran("heatmap", slide, "--out", tmp_path / "sound.zarr", *tail)
    slides.spoil_tile(slide, 0, 0, level=1)
    (line,) = ran("heatmap", slide, "--out", out, *tail).stderr.splitlines()
    assert "cannot read level 1" in line
    assert "tissue is looked for on a finer level" in line
    assert open_finished(out).mask.sum() > 0


def test_sound_slides_are_not_called_damaged(jpeg: Path, real_data: Path) -> None:
    for path in (jpeg, real_data / "slides" / "cmu-1-small-region.svs"):
        with Slide.open(path) as slide:
            for level in slide.levels:
                slide.read_level(level.index, Box(0, 0, *level.shape_px))
            assert slide.damage.all() == []


def test_what_markers_tell() -> None:
    assert jpeg_fault(b"\xff\xd8\xff\xda\x12\xff\xd0\x34\xff\xd9\0\0") is None  # a restart, padding
    assert jpeg_fault(b"\xff\xd8\xff\xc2\xff\xda\x12\xff\xc4\x34\xff\xd9") is None  # progressive
    assert jpeg_fault(b"\xff\xd8\xff\xda\x12\xff\x01\x34\xff\xd9") is not None
    assert jpeg_fault(bytes(20)) == "its JPEG data have no beginning"


def test_one_colour_that_is_neither_glass_nor_black() -> None:
    pink = np.full((64, 64, 3), (200, 120, 180), np.uint8)
    assert one_colour(pink)
    pink[40, 3] += 1
    assert not one_colour(pink)
    assert not one_colour(np.full((64, 64, 3), 243, np.uint8))
    assert not one_colour(np.zeros((64, 64, 3), np.uint8))
