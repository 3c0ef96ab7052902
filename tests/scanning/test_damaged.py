"""Damaged tiles: left out on request, and warned of where they decode all the same."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slides
import tifffile
from commands import ran, refused, run
from maps import ONE, TORCH, read

from slidescan.errors import SlideError
from slidescan.geometry import Box
from slidescan.maps.finished import open_finished
from slidescan.slides.slide import Slide
from slidescan.slides.tile_check import one_colour

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
    assert "1 block of the slide, damaged or not readable" in blocks
    assert "on level 0 at level-0 x=256, y=320, 64 x 64 px" in blocks

    heatmap, sees = open_finished(out), sees_the_tile(out)
    expected = read(sound)
    assert (sees & heatmap.mask).any()
    expected[sees] = np.nan
    np.testing.assert_array_equal(read(out), expected)
    record = provenance(out)
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
    assert "perhaps damaged, " in line
    assert "x=256, y=320, 64 x 64 px: its JPEG data have no end" in line
    out = tmp_path / "b.zarr"
    ran("heatmap", damaged, "--out", out, *tail, "--damaged", "skip")
    sees = sees_the_tile(out)
    assert np.isnan(read(out)[sees]).all()
    np.testing.assert_array_equal(read(out)[~sees], read(tmp_path / "a.zarr")[~sees])


def test_a_deflate_tile_that_decodes_all_the_same_is_warned_of(
    section: Path, tiny_model: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copy(section, tmp_path / "damaged.tif"))
    lengthen(damaged)
    tail = ("--model", tiny_model, *TORCH)
    (line,) = ran("heatmap", damaged, "--out", tmp_path / "a.zarr", *tail).stderr.splitlines()
    assert "x=256, y=320, 64 x 64 px: its data hold more than a tile" in line
    out = tmp_path / "b.zarr"
    ran("heatmap", damaged, "--out", out, *tail, "--damaged", "skip")
    (listed,) = provenance(out)["damaged"]["listed"]
    assert (listed["box_l0"], listed["skipped"]) == ([256, 320, 64, 64], True)
    unseen = np.isnan(read(tmp_path / "a.zarr"))
    np.testing.assert_array_equal(np.isnan(read(out)), unseen | sees_the_tile(out))


def lengthen(path: Path) -> None:
    """Change the tile's pixels and let its data give more of them than a tile has.

    libtiff does not come to the end of such data, where the checksum is.
    """
    at, size = tile_bytes(path)
    pixels = (
        bytes(SIDE * SIDE * 3 // 2) + slides.noise(1, 5).tobytes() + bytes(SIDE * SIDE * 3 // 2)
    )
    changed = zlib.compress(pixels)
    assert len(changed) <= size
    overwrite(path, at, changed)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A section with a level for every power of two; level 1 has the model's resolution."""
    path = tmp_path_factory.mktemp("pyramid") / "slide.tif"
    slides.write_slide(path, slides.section(640, 768), mpp=0.486, levels=(2, 4))
    return path


def provenance(out: Path) -> dict[str, Any]:
    return json.loads((out / "zarr.json").read_text())["attributes"]["slidescan"]["provenance"]


@pytest.mark.parametrize("damage", [slides.spoil_tile, slides.drop_tile])
def test_a_tile_of_a_coarser_level_comes_from_a_finer_one(
    damage: Callable[..., None], pyramid: Path, tiny_model: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copy(pyramid, tmp_path / "damaged.tif"))
    damage(damaged, 1, 2, level=1)
    sound, out = tmp_path / "sound.zarr", tmp_path / "map.zarr"
    tail = ("--model", tiny_model, *TORCH)
    assert ran("heatmap", pyramid, "--out", sound, *tail).stderr == ""
    (line,) = ran("heatmap", damaged, "--out", out, *tail).stderr.splitlines()
    assert "1 block of the slide, damaged or not readable, was computed from a finer" in line
    assert "on level 1 at level-0 x=256, y=128, 128 x 128 px" in line
    (listed,) = provenance(out)["damaged"]["listed"]
    assert (listed["level"], listed["skipped"], listed["instead"]) == (1, False, 0)
    values, expected = read(out), read(sound)
    changed = values != expected
    changed[np.isnan(values) & np.isnan(expected)] = False
    grid = open_finished(out).grid
    sees = [grid.pixels(Box(r, c, r + 1, c + 1)) for r, c in np.ndindex(grid.shape)]
    tile = Box(64, 128, 128, 192)
    touched = np.array([bool(field.clip(tile).area) for field in sees]).reshape(grid.shape)
    assert changed.any()
    assert not (changed & ~touched).any()
    np.testing.assert_array_equal(np.isnan(values), np.isnan(expected))
    ran("verify", damaged, out, "--model", tiny_model, "--cells", 8, *ONE)


def test_a_level_of_which_nothing_can_be_read_comes_from_a_finer_one(
    pyramid: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copy(pyramid, tmp_path / "damaged.tif"))
    for row, column in np.ndindex(5, 6):
        slides.spoil_tile(damaged, row, column, level=1)
    slides.spoil_tile(damaged, 0, 0, level=0)
    slides.spoil_tile(damaged, 1, 1, level=2)
    whole = Box(0, 0, 320, 384)
    with Slide.open(pyramid) as slide:
        expected = slide.read_level(1, whole).astype(int)
    with Slide.open(damaged, skip_damaged=True) as slide:
        pixels, gaps = slide.read_level_with_gaps(1, whole)
        coarse = slide.read_level_with_gaps(2, Box(0, 0, 160, 192))
    assert gaps is not None
    assert gaps[:32, :32].all(), "what is lost on level 0 is lost"
    assert not gaps[34:].any()
    assert np.abs(pixels - expected)[~gaps].mean() < 3  # bicubic, and 2 x 2 means
    assert coarse[1] is None  # from two levels down
    with Slide.open(damaged) as slide:
        with pytest.raises(SlideError, match="cannot read level 0 at level-0 x=0, y=0"):
            slide.read_level(1, whole)
        slide.read_level(1, Box(64, 64, 128, 128))


def test_an_overview_comes_from_a_finer_level(tiny_model: Path, tmp_path: Path) -> None:
    slide, out = tmp_path / "slide.tif", tmp_path / "map.zarr"
    slides.write_slide(slide, slides.section(500, 600), mpp=0.972, levels=(4,))
    slides.spoil_tile(slide, 0, 0, level=1)
    (line,) = ran("heatmap", slide, "--out", out, "--model", tiny_model, *TORCH).stderr.splitlines()
    assert "computed from a finer level" in line
    assert open_finished(out).mask.sum() > 0


def test_sound_slides_are_not_called_damaged(jpeg: Path, real_data: Path) -> None:
    for path in (jpeg, real_data / "slides" / "cmu-1-small-region.svs"):
        with Slide.open(path) as slide:
            for level in slide.levels:
                slide.read_level(level.index, Box(0, 0, *level.shape_px))
            assert slide.damage.all() == []


def test_zeros_within_a_tile_of_a_tiff_that_shares_its_tables(jpeg: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copy(jpeg, tmp_path / "damaged.tif"))
    at, size = tile_bytes(damaged)
    overwrite(damaged, at + size // 3, bytes(100))
    with Slide.open(damaged) as slide:
        slide.read_level(0, TILE)
        (found,) = slide.damage.all()
    assert "run of zeros" in found.why


def test_one_colour_that_is_neither_glass_nor_black() -> None:
    pink = np.full((64, 64, 3), (200, 120, 180), np.uint8)
    assert one_colour(pink)
    pink[40, 3] += 1
    assert not one_colour(pink)
    assert not one_colour(np.full((64, 64, 3), 243, np.uint8))
    assert not one_colour(np.zeros((64, 64, 3), np.uint8))
