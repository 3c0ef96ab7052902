"""The resampler: Pillow's filter, with every pixel a function of its position alone."""

from __future__ import annotations

import numpy as np
import pytest
import slides
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from slidescan.slides.resampling import ONE, Taps, keys, resample

RATIOS = (1.0, 1.948, 3.887, 0.9624, 2.0, 7.3)


def outputs(
    source: slides.Pixels, y: tuple[int, int], x: tuple[int, int], ratio: float
) -> slides.Pixels:
    """Resample outputs y, x of an image that is white outside."""
    rows, columns = Taps.of(*y, ratio), Taps.of(*x, ratio)
    around = np.full(
        (rows.stop_src - rows.start_src, columns.stop_src - columns.start_src, 3), 255, np.uint8
    )
    height, width = source.shape[:2]
    y0, y1 = np.clip((rows.start_src, rows.stop_src), 0, height)
    x0, x1 = np.clip((columns.start_src, columns.stop_src), 0, width)
    inside = np.s_[
        y0 - rows.start_src : y1 - rows.start_src, x0 - columns.start_src : x1 - columns.start_src
    ]
    around[inside] = source[y0:y1, x0:x1]
    return resample(around, rows, columns)


@pytest.mark.parametrize("ratio", RATIOS)
def test_weights_are_integers_that_sum_to_one_whatever_the_position(ratio):
    for start in (-1000, 0, 999_983):
        taps = Taps.of(start, start + 300, ratio)
        assert (taps.weights.sum(axis=1) == ONE).all()
        # Where this fails float32 sums of 8-bit pixels are no longer exact.
        assert (np.abs(taps.weights).sum(axis=1) * 255 < 2**24).all()


@pytest.mark.parametrize("ratio", [1.3, 1.948, 3.887, 7.3, 0.5])
def test_taps_cover_the_kernel(ratio):
    taps = Taps.of(-50, 50, ratio)
    stretch = max(1.0, ratio)
    centre = (np.arange(-50, 50) + 0.5) * ratio - 0.5
    for beyond in (taps.first - 1, taps.first + taps.weights.shape[1]):
        assert (keys((beyond - centre) / stretch) == 0).all()


def test_keys_kernel_interpolates_and_is_cubic_exact():
    at = np.arange(-3.0, 4.0)
    assert keys(at).tolist() == [0, 0, 0, 1, 0, 0, 0]
    assert keys(np.array([0.5, 1.5])).tolist() == [0.5625, -0.0625]  # Keys 1981: 9/16, -1/16


# Pillow takes the ratio from the sizes: 974 / 500 = 1.948 and so on.
@pytest.mark.parametrize(
    ("size", "resized"), [(974, 500), (311, 80), (77, 80), (160, 80), (292, 40), (96, 96)]
)
def test_equals_pillows_bicubic_of_the_whole_image(size, resized):
    source = np.full((size, size, 3), 255, np.uint8)
    margin = size // 4  # white, so that Pillow's renormalised borders are white as well
    inner = size - 2 * margin
    source[margin:-margin, margin:-margin] = slides.noise(inner, inner)
    got = outputs(source, (0, resized), (0, resized), size / resized).astype(int)
    bicubic, image = Image.Resampling.BICUBIC, Image.fromarray(source)
    # In our order, down the rows first: what is clipped between the passes depends on it.
    expected = image.resize((size, resized), bicubic).resize((resized, resized), bicubic)
    assert np.abs(got - np.asarray(expected)).max() <= 1
    # In one call, which goes along the columns first.
    expected = image.resize((resized, resized), bicubic)
    assert np.abs(got - np.asarray(expected)).mean() < 0.2


@pytest.mark.parametrize(("size", "resized"), [(974, 500), (77, 80), (160, 80)])
def test_equals_pillows_bicubic_in_one_call_where_nothing_clips(size, resized):
    source = 255 - slides.noise(size, size) // 3  # 170..255
    source = np.pad(source, ((40, 40), (40, 40), (0, 0)), constant_values=215)
    side = size + 80
    image = Image.fromarray(source).resize((resized, resized), Image.Resampling.BICUBIC)
    got = outputs(source, (0, resized), (0, resized), side / resized).astype(int)
    inside = np.s_[10:-10, 10:-10]  # beyond, ours sees white and Pillow nothing
    assert np.abs(got - np.asarray(image))[inside].max() <= 2


def test_axes_have_their_own_ratio():
    source = slides.checkerboard(120, 200)
    rows, columns = Taps.of(5, 20, 2.0), Taps.of(5, 40, 3.0)
    cut = source[rows.start_src : rows.stop_src, columns.start_src : columns.stop_src]
    assert resample(cut, rows, columns).shape == (15, 35, 3)
    only_rows = resample(cut, rows, Taps.of(columns.start_src, columns.stop_src, 1.0))
    assert only_rows.shape == (15, cut.shape[1], 3)


def test_identity_copies_nothing():
    source = slides.noise(20, 30)
    assert resample(source, Taps.of(7, 27, 1.0), Taps.of(-3, 27, 1.0)) is source


@pytest.mark.parametrize("ratio", RATIOS)
def test_white_stays_white_and_black_black(ratio):
    taps = Taps.of(-7, 90, ratio)
    side = taps.stop_src - taps.start_src
    for value in (0, 255):
        flat = np.full((side, side, 3), value, np.uint8)
        assert (resample(flat, taps, taps) == value).all()


SPAN = st.tuples(st.integers(-20, 70), st.integers(1, 90)).map(lambda s: (s[0], s[0] + s[1]))


@settings(max_examples=60)
@given(ratio=st.sampled_from(RATIOS), y=SPAN, x=SPAN)
def test_a_pixel_is_the_same_whichever_region_it_is_computed_in(ratio, y, x):
    source = slides.noise(150, 130)
    whole = outputs(source, (-20, 160), (-20, 160), ratio)
    part = outputs(source, y, x, ratio)
    assert np.array_equal(part, whole[y[0] + 20 : y[1] + 20, x[0] + 20 : x[1] + 20])


def test_far_from_the_origin_a_tile_still_equals_the_strip_around_it():
    """Positions of 100,000 px, where float32 arithmetic would have lost the phase."""
    start, ratio = 100_000, 1.948
    rows, columns = Taps.of(start, start + 60, ratio), Taps.of(0, 8, ratio)
    height, width = (t.stop_src - t.start_src for t in (rows, columns))
    source = slides.noise(height, width)
    whole = resample(source, rows, columns)
    part = Taps.of(start + 31, start + 45, ratio)
    cut = source[part.start_src - rows.start_src : part.stop_src - rows.start_src]
    assert np.array_equal(resample(cut, part, columns), whole[31:45])
