"""Zoom tiles lie exactly where they say, whatever levels the file has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slides
from numpy.typing import NDArray

from slidescan.geometry import Box
from slidescan.slides.slide import Slide
from slidescan.slides.zoom import Zoom, read_reduced

Pixels = NDArray[np.uint8]


def reduced(pixels: Pixels, step: int) -> NDArray[np.float64]:
    """The mean of squares of `step` px; white beyond the edges."""
    height, width = (-(-n // step) * step for n in pixels.shape[:2])
    padded = np.full((height, width, 3), 255.0)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    squares = padded.reshape(height // step, step, width // step, step, 3)
    return squares.mean(axis=(1, 3))


@pytest.mark.parametrize("extent", [(1, 1), (512, 512), (513, 1), (2967, 2220), (100_000, 77_777)])
def test_tiles_partition_every_level(extent: tuple[int, int]) -> None:
    zoom = Zoom(extent)
    assert max(zoom.levels[0]) <= 512
    assert zoom.levels[-1] == extent
    for level, (height, width) in enumerate(zoom.levels):
        columns, rows = -(-width // 512), -(-height // 512)
        last = zoom.tile(level, columns - 1, rows - 1)
        assert last is not None
        assert (last.y1, last.x1) == (height, width)
        assert zoom.tile(level, columns, 0) is None
        assert zoom.tile(level, 0, rows) is None


@pytest.mark.parametrize("step", [1, 2, 4, 8])
def test_a_pixel_is_the_mean_of_its_square_of_level_0(tmp_path: Path, step: int) -> None:
    pixels = slides.noise(515, 770)
    slides.write_slide(tmp_path / "one.tif", pixels)
    expected = reduced(pixels, step)
    with Slide.open(tmp_path / "one.tif") as slide:
        found = read_reduced(slide, step, Box(0, 0, *expected.shape[:2]))
    assert np.abs(found - expected).max() <= 0.51  # rounded once


@pytest.mark.parametrize(
    "levels", [(), (2, 4), (4,), ((201, 301),), (3,), (2, (201, 301)), ((350, 449),)], ids=str
)
def test_odd_level_ratios_shift_nothing(tmp_path: Path, levels: tuple[int, ...]) -> None:
    pixels = slides.waves(701, 901)
    slides.write_slide(tmp_path / "odd.tif", pixels, levels=levels)
    with Slide.open(tmp_path / "odd.tif") as slide:
        for step in (1, 2, 4, 8):
            # Levels drop pixels at the far edges, and a filter mixes in what lies beyond.
            expected = reduced(pixels, step)[:-3, :-3]
            found = read_reduced(slide, step, Box(0, 0, *expected.shape[:2]))
            for axis in (0, 1):
                assert abs(shift(found, expected, axis)) * step < 0.25, (step, axis)


def shift(found: Pixels, expected: NDArray[np.float64], axis: int) -> float:
    """By how many pixels `found` lies further along an axis, by least squares."""
    slope = np.gradient(expected, axis=axis)
    return float(-((found - expected) * slope).sum() / (slope**2).sum())


def test_large_reductions_are_read_in_parts_with_the_same_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides.write_slide(tmp_path / "odd.tif", slides.noise(701, 901), levels=((350, 449),))
    with Slide.open(tmp_path / "odd.tif") as slide:
        box = Box(10, 20, 170, 220)
        whole = read_reduced(slide, 4, box)
        monkeypatch.setattr("slidescan.slides.zoom.READ_PX", 100)
        assert np.array_equal(read_reduced(slide, 4, box), whole)
