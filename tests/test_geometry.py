"""Fields compose, boxes partition, and the heatmap's cells lie on the slide unshifted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidescan.geometry import LABEL_PX, PATCH_PX, Box, Field, Grid

LAWS = settings(max_examples=100)

fields = st.builds(
    Field, start=st.integers(-60, 60), size=st.integers(1, 120), stride=st.integers(1, 16)
)
kernels = st.integers(1, 9)
strides = st.integers(1, 4)
operations = st.lists(st.tuples(kernels, strides), max_size=5)
extents = st.tuples(st.integers(1, 70), st.integers(1, 70))


@st.composite
def boxes(draw: st.DrawFn, low: int = -40, longest: int = 40) -> Box:
    y0, x0 = draw(st.integers(low, 40)), draw(st.integers(low, 40))
    height, width = draw(st.integers(0, longest)), draw(st.integers(0, longest))
    return Box(y0, x0, y0 + height, x0 + width)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    half = st.integers(1, 48)
    return Grid(draw(extents), 2 * draw(st.integers(1, 8)), 2 * draw(half))


def cell_boxes(draw: st.DrawFn, grid: Grid) -> Box:
    rows, columns = grid.shape
    y0, x0 = draw(st.integers(0, rows - 1)), draw(st.integers(0, columns - 1))
    return Box(y0, x0, draw(st.integers(y0 + 1, rows)), draw(st.integers(x0 + 1, columns)))


@st.composite
def grids_and_cells(draw: st.DrawFn) -> tuple[Grid, Box]:
    grid = draw(grids())
    return grid, cell_boxes(draw, grid)


def cover(box: Box, frame: Box) -> np.ndarray:
    """How often `box` covers each pixel of `frame`."""
    counts = np.zeros(frame.shape, int)
    inside = box.clip(frame).shift(-frame.y0, -frame.x0)
    counts[inside.slices] += 1
    return counts


def around(parts: list[Box]) -> Box:
    """The smallest box that holds all parts."""
    return Box(
        min(p.y0 for p in parts),
        min(p.x0 for p in parts),
        max(p.y1 for p in parts),
        max(p.x1 for p in parts),
    )


# --- Field --------------------------------------------------------------------------------------


@LAWS
@given(fields, st.integers(1, 50))
def test_extent_is_the_least_that_gives_its_outputs(field: Field, n: int) -> None:
    assert field.outputs(field.extent(n)) == n
    assert field.outputs(field.extent(n) - 1) == n - 1


@LAWS
@given(fields, st.integers(0, 300))
def test_outputs_are_the_windows_that_fit(field: Field, extent_px: int) -> None:
    fit = [i for i in range(extent_px) if i * field.stride + field.size <= extent_px]
    assert field.outputs(extent_px) == len(fit)


@LAWS
@given(operations, st.integers(0, 400))
def test_then_counts_as_the_operations_do_one_after_the_other(
    chain: list[tuple[int, int]], extent_px: int
) -> None:
    field, n = Field(), extent_px
    for kernel, stride in chain:
        field, n = field.then(kernel, stride), max(0, (n - kernel) // stride + 1)
    assert field.outputs(extent_px) == n


@LAWS
@given(operations, st.integers(0, 5))
def test_then_sees_the_pixels_that_the_operations_read(
    chain: list[tuple[int, int]], output: int
) -> None:
    field, first, last = Field(), output, output
    for kernel, stride in chain:
        field = field.then(kernel, stride)
    for kernel, stride in reversed(chain):
        first, last = first * stride, last * stride + kernel - 1
    begin = field.start + output * field.stride
    assert (begin, begin + field.size) == (first, last + 1)


@LAWS
@given(fields, st.integers(0, 9), kernels, strides)
def test_a_crop_is_a_larger_kernel(field: Field, cut: int, kernel: int, stride: int) -> None:
    assert field.crop(cut) == field.then(2 * cut + 1)
    assert field.crop(cut).then(kernel, stride) == field.then(kernel + 2 * cut, stride)
    assert field.crop(cut).crop(1) == field.crop(cut + 1)


@LAWS
@given(fields, st.integers(0, 9), st.integers(1, 300))
def test_a_crop_costs_its_outputs_at_both_ends(field: Field, cut: int, extent_px: int) -> None:
    assert field.crop(cut).outputs(extent_px) == max(0, field.outputs(extent_px) - 2 * cut)


def test_an_even_stem_is_what_makes_the_field_even() -> None:
    # R N N R spends 10 + 4 + 4 + 10 cells at jumps 2, 4, 4, 4 (DESIGN.md, Network).
    assert Field().then(4, 2).then(11, 2).then(5).then(5).then(11, 2) == Field(0, 96, 8)
    assert Field().then(3, 2).then(11, 2).then(5).then(5).then(11, 2) == Field(0, 95, 8)


# --- Box ----------------------------------------------------------------------------------------


@LAWS
@given(boxes(), st.integers(1, 25))
def test_split_partitions(box: Box, side: int) -> None:
    parts = list(box.split(side))
    assert sum((cover(part, box) for part in parts), np.zeros(box.shape, int)).tolist() == (
        np.ones(box.shape, int).tolist()
    )
    assert sum(part.area for part in parts) == box.area  # so none lies outside the box
    assert all(0 < n <= side for part in parts for n in part.shape)
    assert parts == sorted(parts, key=lambda part: (part.y0, part.x0))  # row by row


@LAWS
@given(boxes(), boxes())
def test_clip_keeps_the_common_pixels(a: Box, b: Box) -> None:
    frame = Box(-50, -50, 90, 90)
    both = a.clip(b)
    assert min(both.shape) >= 0
    assert np.array_equal(cover(both, frame), cover(a, frame) * cover(b, frame))
    assert both.area == (cover(a, frame) * cover(b, frame)).sum() == b.clip(a).area
    assert a.clip(a) == a


@LAWS
@given(boxes(), st.integers(-30, 30), st.integers(-30, 30))
def test_shift_moves_y_then_x(box: Box, dy: int, dx: int) -> None:
    moved = box.shift(dy, dx)
    assert moved.shape == box.shape
    assert (moved.y0 - box.y0, moved.x0 - box.x0) == (dy, dx)
    assert moved.shift(-dy, -dx) == box


def test_slices_are_ordered_y_x() -> None:
    assert Box(1, 2, 4, 8).slices == (slice(1, 4), slice(2, 8))
    assert Box(1, 2, 4, 8).shape == (3, 6)
    assert Box(1, 2, 4, 8).area == 18


# --- Grid ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extent_px", "stride", "shape"),
    [
        ((96, 96), 8, (12, 12)),
        ((97, 95), 8, (13, 12)),  # a started cell counts
        ((1, 8), 8, (1, 1)),
        ((9, 17), 8, (2, 3)),
        ((100, 17), 4, (25, 5)),
        ((0, 8), 8, (0, 1)),
    ],
)
def test_shape_is_rounded_up(
    extent_px: tuple[int, int], stride: int, shape: tuple[int, int]
) -> None:
    grid = Grid(extent_px, stride)
    assert grid.shape == shape
    assert grid.cells == Box(0, 0, *shape)


@LAWS
@given(grids())
def test_cells_cover_the_plane_once(grid: Grid) -> None:
    plane, s = Box(0, 0, *grid.extent_px), grid.stride
    squares = [
        Box(r * s, c * s, (r + 1) * s, (c + 1) * s)
        for r in range(grid.shape[0])
        for c in range(grid.shape[1])
    ]
    assert [square.clip(plane) for square in squares] == list(plane.split(s))


@LAWS
@given(grids_and_cells())
def test_the_field_of_view_is_centred_on_its_cells_square(drawn: tuple[Grid, Box]) -> None:
    grid, cells = drawn
    r, c, s = cells.y0, cells.x0, grid.stride
    seen = grid.pixels(Box(r, c, r + 1, c + 1))
    assert seen.shape == (grid.field_px, grid.field_px)
    # Twice the centres: of the square, then of the field.
    assert (2 * r * s + s, 2 * c * s + s) == (seen.y0 + seen.y1, seen.x0 + seen.x1)


def test_a_cells_label_region_is_centred_on_its_square() -> None:
    # r*s + s/2 - 48: cell (3, 5) covers [24, 32) x [40, 48), centre (28, 44).
    seen = Grid((800, 800)).pixels(Box(3, 5, 4, 6))
    assert seen == Box(28 - 48, 44 - 48, 28 + 48, 44 + 48)
    rim = (PATCH_PX - LABEL_PX) // 2
    assert seen.y0 + rim == 28 - 16
    assert Grid((800, 800), stride=16).pixels(Box(0, 0, 1, 1)) == Box(-40, -40, 56, 56)


@LAWS
@given(grids_and_cells(), st.integers(1, 6))
def test_pixels_of_a_union_are_the_union_of_the_pixels(drawn: tuple[Grid, Box], side: int) -> None:
    grid, cells = drawn
    assert around([grid.pixels(part) for part in cells.split(side)]) == grid.pixels(cells)


@LAWS
@given(grids_and_cells())
def test_pixels_give_exactly_their_cells(drawn: tuple[Grid, Box]) -> None:
    grid, cells = drawn
    height, width = grid.pixels(cells).shape
    assert (grid.field.outputs(height), grid.field.outputs(width)) == cells.shape


@pytest.mark.parametrize(
    ("stride", "field_px"), [(7, 96), (1, 96), (8, 95), (0, 96), (-8, 96), (8, 0)]
)
def test_what_cannot_be_centred_is_refused(stride: int, field_px: int) -> None:
    with pytest.raises(ValueError, match=f"stride {stride} and field {field_px} must be even"):
        Grid((100, 100), stride, field_px)
