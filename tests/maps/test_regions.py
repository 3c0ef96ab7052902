"""Regions of a map: which cells, what is measured, and outlines that give the cells back."""

from __future__ import annotations

from pathlib import Path

import lesions
import numpy as np
import pytest
import shapely
from lesions import UM, Values
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold
from skimage.measure import regionprops
from slide_study import write_map

from slidescan.annotations.rasters import rasterise
from slidescan.errors import ConfigError
from slidescan.maps import contours
from slidescan.maps.regions import Region, Rule, find_regions
from slidescan.maps.store import Heatmap

PITCH_L0 = (15.0, 30.0)
"""level-0 px a cell of `write_map`, (x, y)"""

CELL_UM2 = UM**2


def regions(path: Path, values: Values, rule: Rule, **changes: int) -> list[Region]:
    return find_regions(Heatmap.open(write_map(path, values, **changes)), rule)


def drawn(found: list[Region], shape: tuple[int, int]) -> lesions.Mask:
    """The cells whose centre lies in an outline."""
    return rasterise([each.outline for each in found], shape, PITCH_L0)


def texture(shape: tuple[int, int], sigma: float, seed: int = 0) -> Values:
    """Random probabilities that vary over `sigma` cells, a part of them not scanned."""
    field = np.random.default_rng(seed).normal(size=shape)
    field = ndimage.gaussian_filter(field, sigma) if sigma else field
    values = (1 / (1 + np.exp(-2 * field / field.std()))).astype(np.float32)
    values[10:14, 20:70] = np.nan
    return values


@pytest.mark.parametrize("sigma", [0.0, 1.2, 4.0])
@pytest.mark.parametrize("rule", [Rule(0.6), Rule(0.9, 0.6), Rule(0.8, min_area_um2=0)])
def test_outlines_drawn_back_are_the_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sigma: float, rule: Rule
) -> None:
    monkeypatch.setattr(contours, "BAND_ROWS", 16)  # most outlines are cut by bands
    values = texture((83, 101), sigma)
    labels, _ = ndimage.label(values >= rule.floor, np.ones((3, 3)))
    high = apply_hysteresis_threshold(np.nan_to_num(values), rule.floor - 1e-9, rule.threshold)
    large = np.bincount(labels.ravel())[labels] * CELL_UM2 >= rule.min_area_um2
    expected = (labels > 0) & ndimage.binary_propagation(high, np.ones((3, 3)), labels > 0) & large

    found = regions(tmp_path / "map.zarr", values, rule)

    assert len(found) == len(np.unique(labels[expected]))
    assert np.array_equal(drawn(found, values.shape), expected)
    assert shapely.is_valid([each.outline for each in found]).all()


def test_an_outline_is_less_than_half_a_cell_from_its_cells(tmp_path: Path) -> None:
    mask = lesions.disc((60, 60), 30, 28, 17.3)
    values = np.where(mask, 0.9, 0.1).astype(np.float32)
    (found,) = regions(tmp_path / "map.zarr", values, Rule(0.5))
    in_cells = shapely.transform(found.outline, lambda points: points / PITCH_L0)
    squares = shapely.union_all([shapely.box(c, r, c + 1, r + 1) for r, c in np.argwhere(mask)])
    assert shapely.hausdorff_distance(in_cells.exterior, squares.exterior, 0.1) < 0.5
    assert shapely.get_num_coordinates(in_cells) < 60, "simplified: the disc has 108 border cells"


def test_measures_are_those_of_the_cells(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    mask = lesions.corner((300, 290), 240, 230, 40, 9)  # over four blocks
    values = np.full(mask.shape, 0.2, np.float32)
    values[mask] = rng.uniform(0.5, 1, mask.sum())

    (found,) = regions(tmp_path / "map.zarr", values, Rule(0.5))

    (expected,) = regionprops(mask.astype(int), values)
    assert found.number == 1
    assert found.area_um2 == pytest.approx(mask.sum() * CELL_UM2)
    assert found.highest == values.max()
    assert found.mean == pytest.approx(values[mask].mean())
    assert found.p95 == pytest.approx(np.percentile(values[mask], 95), abs=1e-6)
    row, column = expected.centroid
    assert found.centroid_l0 == pytest.approx(((column + 0.5) * 15, (row + 0.5) * 30))
    assert found.centroid_um == pytest.approx(((column + 0.5) * UM, (row + 0.5) * UM))
    assert found.box_l0 == (230 * 15, 240 * 30, 40 * 15, 40 * 30)
    assert found.box_um == (230 * UM, 240 * UM, 40 * UM, 40 * UM)
    # skimage takes a cell as a point, regions (and MATLAB's regionprops) as a square.
    axis = (expected.axis_major_length**2 + 16 / 12) ** 0.5
    assert found.major_axis_um == pytest.approx(axis * UM)


def test_the_hottest_region_is_the_first_and_the_larger_of_two(tmp_path: Path) -> None:
    values = np.full((60, 60), 0.1, np.float32)
    values[2:8, 2:8] = 0.8
    values[2:8, 20:32] = 0.8
    values[30:36, 30:36] = 0.9
    found = regions(tmp_path / "map.zarr", values, Rule(0.5))
    assert [(each.number, round(each.highest, 2), each.area_um2 / CELL_UM2) for each in found] == [
        (1, 0.9, 36),
        (2, 0.8, 72),
        (3, 0.8, 36),
    ]


def test_regions_that_touch_by_a_corner_are_one_and_holes_stay(tmp_path: Path) -> None:
    mask = lesions.ring((50, 50), 15, 15, 5, 10)
    mask[15, 15] = True  # an island in the hole: a region of its own
    mask[26:34, 20:28] = True
    touching = mask | lesions.rectangle(mask.shape, 34, 28, 4, 4)
    assert touching[33:35, 27:29].tolist() == [[True, False], [False, True]]

    found = regions(tmp_path / "map.zarr", touching.astype(np.float32), Rule(0.5, min_area_um2=0))

    assert [len(each.outline.interiors) for each in found] == [1, 0, 0]
    assert found[1].area_um2 == 80 * CELL_UM2
    assert found[2].area_um2 == CELL_UM2


def test_a_region_at_the_edge_does_not_leave_the_map(tmp_path: Path) -> None:
    values = texture((40, 30), 2)
    values[:, :3] = values[-3:] = 0.51
    found = regions(tmp_path / "map.zarr", values, Rule(0.5))
    bounds = shapely.total_bounds([each.outline for each in found])
    assert bounds[0] >= 0
    assert bounds[3] <= 40 * 30


@pytest.mark.parametrize(
    ("length", "size_class"), [(22, "itc"), (60, "micro"), (220, "micro"), (240, "macro")]
)
def test_the_class_is_by_the_major_axis(tmp_path: Path, length: int, size_class: str) -> None:
    # An ellipse with the moments of a bar is 2 / sqrt(3) as long: 191, 520, 1905 and 2078 um.
    mask = lesions.rectangle((20, 250), 8, 3, 4, length)
    (found,) = regions(tmp_path / "map.zarr", mask.astype(np.float32), Rule(0.5))
    assert found.major_axis_um == pytest.approx(2 / 3**0.5 * length * UM, rel=0.01)
    assert found.size_class == size_class


def test_a_map_without_a_hot_cell_has_no_regions(tmp_path: Path) -> None:
    values = np.full((40, 40), 0.3, np.float32)
    assert regions(tmp_path / "cold.zarr", values, Rule(0.5)) == []
    values[:] = np.nan
    assert regions(tmp_path / "glass.zarr", values, Rule(0.5)) == []


def test_an_unfinished_map_has_the_regions_of_its_finished_blocks(tmp_path: Path) -> None:
    values = np.full((300, 300), 0.9, np.float32)
    (found,) = regions(tmp_path / "map.zarr", values, Rule(0.5), blocks=1)
    assert found.box_um == (0, 0, 256 * UM, 256 * UM)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0,), "threshold 0"),
        ((1.2,), "threshold 1.2"),
        ((float("nan"),), "threshold nan"),
        ((0.5, 0.6), "low threshold 0.6"),
        ((0.5, None, -1), "smallest area -1"),
    ],
)
def test_a_rule_out_of_range_is_refused(arguments: tuple[float, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Rule(*arguments)
