"""`export ome-tiff`: read back by tifffile's OME reader, and by the rules of OME-XML."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import checkers
import numpy as np
import ome_types
import pytest
import tifffile
from checkers import Checkers, Floats, Sampler
from commands import ran, refused, run
from numpy.typing import NDArray

from slidescan import exports
from slidescan.geometry import Box
from slidescan.maps.store import Heatmap
from slidescan.pictures.colours import colours


def export(board: Checkers, out: Path, *arguments: object) -> tuple[list[NDArray[Any]], Any]:
    """The levels and the `Pixels` element of an export."""
    ran("export", "ome-tiff", board.map_path, *arguments, "--out", out)
    with tifffile.TiffFile(out) as tiff:
        assert tiff.is_ome
        (series,) = tiff.series
        levels = [level.asarray() for level in series.levels]
        xml = tiff.ome_metadata
    assert xml is not None
    # ome-types ships the schema; Bio-Formats checks a file against it as well.
    (image,) = ome_types.from_xml(xml, validate=True).images
    return levels, image.pixels


def sampler(level: NDArray[np.float32], pixels: Any, mpp: float, origin: Box) -> Sampler:
    """Values by the size and the position that OME-XML states; `origin` is that of QuPath."""
    um = pixels.physical_size_x * pixels.size_x / level.shape[1]
    (plane,) = pixels.planes

    def sample(x: Floats, y: Floats) -> Floats:
        column = ((x - origin.x0) * mpp - plane.position_x) / um
        row = ((y - origin.y0) * mpp - plane.position_y) / um
        return level[np.floor(row).astype(int), np.floor(column).astype(int)].astype(float)

    return sample


def test_values_lie_on_the_slide_as_qupath_opens_it(
    boards: Checkers, bounds: Box, tmp_path: Path
) -> None:
    out = tmp_path / "map.ome.tif"
    levels, pixels = export(boards, out, "--values", "--slide", boards.slide_path)
    assert pixels.type.value == "float"
    assert pixels.physical_size_x == pixels.physical_size_y
    assert pixels.physical_size_x_unit.value == "\N{MICRO SIGN}m"
    assert pixels.planes[0].position_x == pytest.approx(-317 * 0.25)
    sample = sampler(levels[0], pixels, boards.mpp, bounds)
    assert boards.error_l0(sample, bounds) <= 0.5 * boards.cell_l0 + 1


def test_without_the_slide_positions_are_those_of_level_0(boards: Checkers, tmp_path: Path) -> None:
    levels, pixels = export(boards, tmp_path / "map.ome.tif", "--values")
    whole = Box(0, 0, *boards.extent_l0)
    sample = sampler(levels[0], pixels, boards.mpp, whole)
    assert boards.error_l0(sample) <= 0.5 * boards.cell_l0 + 1


def test_bounds_that_the_map_records_need_no_slide(slide: Path, tmp_path: Path) -> None:
    bounds = Box(205, 317, 1203, 1440)
    board = checkers.make(slide, tmp_path / "bounds.zarr", stride=8, bounds=bounds)
    levels, pixels = export(board, tmp_path / "map.ome.tif", "--values")
    sample = sampler(levels[0], pixels, board.mpp, bounds)
    assert board.error_l0(sample, bounds) <= 0.5 * board.cell_l0 + 1
    _, pixels = export(board, tmp_path / "whole.ome.tif", "--no-crop")
    assert (pixels.planes[0].position_x, pixels.planes[0].position_y) == (0, 0)


def test_levels_hold_what_the_map_holds(
    board: Checkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep.zarr"
    monkeypatch.setattr("slidescan.maps.ngff.LEVEL_CELLS", 20)
    source = Heatmap.open(board.map_path)
    values = source.read(source.grid.cells)
    values[:9] = np.nan
    kept = {"settings": source.settings, "provenance": source.provenance}
    mask = np.isfinite(values)
    with Heatmap.create(path, grid=source.grid, mpp=source.mpp, mask=mask, **kept) as heatmap:
        for block in heatmap.blocks():
            heatmap.write(block, values[block.slices])
        heatmap.finish({})
    deep = Checkers(path, board.slide_path, board.extent_l0, board.mpp, board.cell_l0)
    levels, _ = export(deep, tmp_path / "map.ome.tif", "--values")
    coloured, pixels = export(deep, tmp_path / "c.ome.tif", "--colours", "magma")
    assert len(levels) == len(coloured) == len(heatmap.shapes) > 2
    assert (pixels.type.value, pixels.size_c, pixels.channels[0].samples_per_pixel) == (
        "uint8",
        3,
        3,
    )
    for level, shape in enumerate(heatmap.shapes):
        expected = heatmap.read(Box(0, 0, *shape), level)
        np.testing.assert_array_equal(levels[level], expected)
        assert (coloured[level][np.isnan(expected)] == 255).all()
        table, scanned = colours("magma").rgb, np.isfinite(expected)
        entries = np.rint(expected[scanned] * 255).astype(int)
        np.testing.assert_array_equal(coloured[level][scanned], table[entries])


def test_tiles_are_read_a_row_at_a_time(
    board: Checkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that memory does not grow with the height of a map."""
    boxes: list[Box] = []
    read = Heatmap.read
    monkeypatch.setattr("slidescan.exports.ome_tiff.TILE_PX", 16)
    monkeypatch.setattr(
        Heatmap, "read", lambda self, box, level=0: (boxes.append(box), read(self, box, level))[1]
    )
    levels, _ = export(board, tmp_path / "map.ome.tif", "--values")
    assert {box.shape[0] for box in boxes[:-1]} <= {16, levels[0].shape[0] % 16}
    source = Heatmap.open(board.map_path)
    np.testing.assert_array_equal(levels[0], read(source, source.grid.cells))


def test_a_missing_library_is_named_with_its_remedy(
    board: Checkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "slidescan.exports.ome_tiff")
    monkeypatch.delattr(exports, "ome_tiff")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    out = tmp_path / "map.ome.tif"
    refused(run("export", "ome-tiff", board.map_path, "--out", out), "tifffile", "pip install")
    assert not list(tmp_path.iterdir())
