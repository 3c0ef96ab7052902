"""Pixels that the file does not hold: found where they are damage, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slides
from handles import FakeHandle
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from slidescan.geometry import Box
from slidescan.slides.plane import Plane
from slidescan.slides.resampling import Taps
from slidescan.slides.slide import Slide

TILE = Box(128, 256, 256, 384)


@pytest.fixture(scope="module")
def gapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """512 x 768 px of noise without the tile `TILE` of level 0, and a whole level of 4."""
    path = tmp_path_factory.mktemp("gapped") / "gapped.tif"
    slides.write_slide(path, slides.noise(512, 768), levels=(4,), tile=128)
    slides.drop_tile(path, 1, 2)
    return path


def whole(plane: Plane) -> NDArray[np.bool_]:
    gaps = plane.read_with_gaps(Box(0, 0, *plane.shape_px))[1]
    assert gaps is not None
    return gaps


def test_a_missing_tile_is_a_gap_and_nothing_else_is(gapped: Path) -> None:
    expected = np.zeros((512, 768), bool)
    expected[TILE.slices] = True
    with Slide.open(gapped) as slide:
        plane = slide.plane(0.25)
        pixels, gaps = plane.read_with_gaps(Box(-10, -20, 522, 788))
        assert gaps is not None
        np.testing.assert_array_equal(gaps[10:522, 20:788], expected)
        assert gaps.sum() == expected.sum()
        here = pixels[10:522, 20:788]
        np.testing.assert_array_equal(here[~expected], slides.noise(512, 768)[~expected])
        assert (here[expected] == 255).all()
        np.testing.assert_array_equal(plane.read(Box(-10, -20, 522, 788)), pixels)
        assert plane.read_with_gaps(Box(0, 0, 128, 768))[1] is None
        assert plane.read_with_gaps(Box(-9, -9, 0, 0))[1] is None


def test_the_level_that_is_read_decides(gapped: Path) -> None:
    with Slide.open(gapped) as slide:
        assert slide.plane(1.0).read_with_gaps(Box(0, 0, 128, 192))[1] is None


@pytest.mark.parametrize("ratio", [1.948, 0.9624, 2.0])
def test_a_resampled_pixel_is_missing_where_a_tap_is(gapped: Path, ratio: float) -> None:
    with Slide.open(gapped) as slide:
        plane = slide.plane(0.25 * ratio)
        gaps = whole(plane)
    reads = []
    for size, (start, stop) in zip(plane.shape_px, ((128, 256), (256, 384)), strict=True):
        taps = Taps.of(0, size, ratio)
        first = taps.first[:, None] + np.arange(taps.weights.shape[1])
        reads.append(((first >= start) & (first < stop)).any(axis=1))
    np.testing.assert_array_equal(gaps, reads[0][:, None] & reads[1])


@settings(max_examples=40, deadline=None)
@given(y=st.integers(0, 250), x=st.integers(0, 380), side=st.integers(1, 200))
def test_a_gap_is_the_same_whichever_box_it_is_read_in(
    gapped: Path, y: int, x: int, side: int
) -> None:
    with Slide.open(gapped) as slide:
        plane = slide.plane(0.487)
        box = Box(y, x, y + side, x + side).clip(Box(0, 0, *plane.shape_px))
        found = plane.read_with_gaps(box)[1]
        found = np.zeros(box.shape, bool) if found is None else found
        np.testing.assert_array_equal(found, whole(plane)[box.slices])


HOLED = np.zeros((80, 100, 4), np.uint8)
HOLED[:, :50] = 255


def columns(**properties: str) -> list[int]:
    """The columns of the gaps."""
    slide = Slide(Path(__file__), FakeHandle(HOLED, **properties))
    gaps = slide.plane(0.25).read_with_gaps(Box(0, 0, 80, 100))[1]
    return [] if gaps is None else np.flatnonzero(gaps.any(axis=0)).tolist()


def test_formats_that_leave_out_glass_have_no_gaps() -> None:
    # The last column may be mixed with what lies beyond the slide.
    assert columns(vendor="aperio") == columns() == list(range(50, 99))
    for vendor in ("mirax", "philips", "dicom"):
        assert columns(vendor=vendor) == []


def test_beyond_the_bounds_is_outside() -> None:
    bounds = {"bounds_x": "10", "bounds_y": "10", "bounds_height": "20"}
    assert columns(**bounds, bounds_width="60") == list(range(50, 70))
    assert columns(**bounds, bounds_width="40") == []
