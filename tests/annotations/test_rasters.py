"""Rasterising polygons by the centres of cells, in any blocks, and writing masks."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from openslide import OpenSlide
from PIL import Image

from slidescan.annotations.masks import TILE, write_mask
from slidescan.annotations.rasters import raster_blocks, rasterise
from slidescan.errors import WriteError

SQUARE = shapely.box(0, 0, 4, 4)


def star(
    rng: np.random.Generator, centre: tuple[float, float], radius: float
) -> NDArray[np.float64]:
    """A simple ring whose vertices lie on no grid."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, 60))
    reach = radius * rng.uniform(0.5, 1, 60)
    return np.stack([centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle)], axis=1)


def with_hole(rng: np.random.Generator, centre: tuple[float, float]) -> shapely.Polygon:
    polygon = shapely.Polygon(star(rng, centre, 40), [star(rng, centre, 18)])
    polygon = shapely.make_valid(polygon)
    return max(shapely.get_parts(polygon).tolist(), key=lambda part: part.area)


def by_points(
    geometry: shapely.Geometry,
    shape: tuple[int, int],
    pitch: tuple[float, float],
    origin: tuple[float, float],
) -> NDArray[np.bool_]:
    """The slow reference: shapely, for every centre."""
    row, column = np.indices(shape)
    x, y = origin[0] + (column + 0.5) * pitch[0], origin[1] + (row + 0.5) * pitch[1]
    inside: NDArray[np.bool_] = shapely.contains_xy(geometry, x, y)
    return inside


@pytest.mark.parametrize("seed", range(8))
def test_equals_shapely_at_every_centre(seed: int) -> None:
    rng = np.random.default_rng(seed)
    polygons = [with_hole(rng, tuple(rng.uniform(0, 150, 2))) for _ in range(5)]
    polygons.append(shapely.MultiPolygon([with_hole(rng, (40, 60)), shapely.box(130, 9, 149, 33)]))
    pitch, origin = (0.83, 1.37), (-20.3, -7.9)
    mask = rasterise(polygons, (120, 230), pitch, origin)
    expected = by_points(shapely.union_all(polygons), mask.shape, pitch, origin)
    assert np.array_equal(mask, expected)
    assert 0.1 < mask.mean() < 0.9


def test_rows_are_y_and_each_axis_has_its_pitch() -> None:
    # x 20 to 60 at 10 px a column, y 5 to 10 at 5 px a row.
    mask = rasterise([shapely.box(20, 5, 60, 10)], (4, 8), (10, 5))
    assert mask.astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_only_the_centre_counts() -> None:
    assert not rasterise([shapely.box(0.51, 0, 1.49, 1)], (1, 2), (1, 1)).any()
    assert rasterise([shapely.box(0.49, 0.4, 0.51, 0.6)], (1, 2), (1, 1)).tolist() == [
        [True, False]
    ]


def test_a_hole_stays_empty_and_its_island_is_filled() -> None:
    ring = SQUARE.buffer(2).difference(SQUARE)
    mask = rasterise([ring, shapely.box(1, 1, 2, 2)], (4, 4), (1, 1))
    assert np.argwhere(mask).tolist() == [[1, 1]]


def test_overlapping_polygons_are_one_area() -> None:
    mask = rasterise([SQUARE, shapely.box(2, 2, 6, 6), SQUARE], (6, 6), (1, 1))
    assert mask.sum() == 16 + 16 - 4


def test_areas_that_share_an_edge_on_centres_share_no_cell_and_leave_none_out() -> None:
    parts = [shapely.box(0.5, 0.5, 2.5, 4.5), shapely.box(2.5, 0.5, 4.5, 4.5)]
    parts += [shapely.Polygon([(0.5, 4.5), (4.5, 4.5), (2.5, 6.5)])]
    masks = [rasterise([part], (8, 8), (1, 1)) for part in parts]
    assert np.sum(masks, axis=0).max() == 1
    assert np.array_equal(np.any(masks, axis=0), rasterise(parts, (8, 8), (1, 1)))
    assert [int(mask.sum()) for mask in masks] == [8, 8, 6]


def test_what_lies_beyond_the_mask_is_cut_off() -> None:
    assert rasterise([shapely.box(-9, -9, 99, 99)], (3, 5), (1, 1)).all()
    outside = [shapely.box(-9, 0, -1, 9), shapely.box(9, 0, 11, 9), shapely.box(0, 9, 5, 12)]
    assert not rasterise(outside, (3, 5), (1, 1)).any()
    assert rasterise([], (3, 5), (1, 1)).shape == (3, 5)


@settings(max_examples=40)
@given(rows=st.integers(1, 90), seed=st.integers(0, 9))
def test_blocks_of_any_height_make_the_same_mask(rows: int, seed: int) -> None:
    # Vertices on quarters of a cell: centres on edges, horizontal edges, corners on centre lines.
    rng = np.random.default_rng(seed)
    rings = [np.round(star(rng, (40, 40), 40) * 4) / 4 for _ in range(3)]
    polygons = [shapely.Polygon(ring) for ring in rings]
    whole = rasterise(polygons, (83, 77), (1, 1))
    blocks = list(raster_blocks(polygons, (83, 77), (1, 1), rows=rows))
    assert [len(block) for block in blocks[:-1]] == [rows] * (len(blocks) - 1)
    assert np.array_equal(np.concatenate(blocks), whole)


def test_a_part_of_the_mask_is_the_mask_of_that_part() -> None:
    polygon = with_hole(np.random.default_rng(3), (50, 50))
    whole = rasterise([polygon], (100, 100), (1, 1))
    part = rasterise([polygon], (40, 30), (1, 1), origin_l0=(35, 20))
    assert np.array_equal(part, whole[20:60, 35:65])
    assert part.any()
    assert not part.all()


MASK = np.random.default_rng(0).random((TILE + 9, 2 * TILE + 3)) > 0.5


def in_blocks(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.bool_]]:
    for row in range(0, len(mask), TILE):
        yield mask[row : row + TILE]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
def test_pictures_keep_every_cell(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mask{suffix}"
    assert write_mask(path, in_blocks(MASK), MASK.shape, 7.776) == MASK.sum()
    with Image.open(path) as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), MASK * np.uint8(255))
        assert image.info["dpi"] == pytest.approx((25400 / 7.776,) * 2, rel=1e-4)


def test_npy_keeps_every_cell_as_bool(tmp_path: Path) -> None:
    path = tmp_path / "mask.npy"
    assert write_mask(path, in_blocks(MASK), MASK.shape, 7.776) == MASK.sum()
    loaded = np.load(path, allow_pickle=False)
    assert loaded.dtype == bool
    assert np.array_equal(loaded, MASK)


def test_the_tiff_opens_as_a_slide_at_its_resolution(tmp_path: Path) -> None:
    path = tmp_path / "mask.tif"
    write_mask(path, in_blocks(MASK), MASK.shape, 0.243)
    assert np.array_equal(tifffile.imread(path) > 0, MASK)
    with OpenSlide(path) as slide:
        assert slide.dimensions == MASK.shape[::-1]
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.243, rel=1e-5)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_memory_depends_on_the_block_not_on_the_mask(tmp_path: Path, suffix: str) -> None:
    shape = (20 * TILE, 2048)
    tracemalloc.start()
    try:
        blocks = raster_blocks([shapely.Point(9e3, 9e3).buffer(5e3)], shape, (9, 2), rows=TILE)
        write_mask(tmp_path / f"mask{suffix}", blocks, shape, 1.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.4 * shape[0] * shape[1]


def test_a_mask_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def breaking() -> Iterator[NDArray[np.bool_]]:
        yield MASK[:TILE]
        raise MemoryError

    with pytest.raises(MemoryError):
        write_mask(tmp_path / "mask.tif", breaking(), MASK.shape, 1.0)
    assert not list(tmp_path.iterdir())


def test_a_kind_of_file_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"mask\.jpg: a mask is \.png, \.tif"):
        write_mask(tmp_path / "mask.jpg", in_blocks(MASK), MASK.shape, 1.0)
