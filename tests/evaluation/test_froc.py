"""Camelyon16's FROC: each step against numbers by hand, all steps against monai."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesions import UM, Mask, blank, corner, disc, heatmap, rectangle, ring
from numpy.typing import NDArray

from slidescan.annotations.rasters import rasterise
from slidescan.annotations.reading import load_annotations
from slidescan.evaluation.detections import Detections, components, suppress
from slidescan.evaluation.froc import (
    RATES,
    Lesions,
    ResampledFroc,
    Scored,
    froc,
    intervals,
    lesions,
    score,
)
from slidescan.pictures.slide_curves import froc_figure

SHAPE = (120, 200)


def scored(false: list[float], found: list[float]) -> Scored:
    return Scored(np.array(false, np.float32), np.array(found, np.float32))


def detected(*points: tuple[int, int, float]) -> Detections:
    rows, columns, scores = np.array(points, float).reshape(-1, 3).T
    return Detections(rows.astype(int), columns.astype(int), scores.astype(np.float32))


# --- steps 1 and 2: the lesions


@pytest.mark.parametrize(("apart", "count"), [(9, 1), (10, 2)])
@pytest.mark.parametrize("across", [False, True])
def test_lesions_closer_than_75_um_are_one(apart: int, count: int, across: bool) -> None:
    # Centres of the nearest cells: 9 x 7.5 = 67.5 um, 10 x 7.5 = 75 um.
    mask = rectangle(SHAPE, 30, 10, 50, 50) | rectangle(SHAPE, 30, 59 + apart, 50, 50)
    assert len(lesions(mask.T if across else mask, UM).axes_um) == count


def test_a_lesion_grows_by_less_than_37_5_um() -> None:
    # Five cells away is 37.5 um, which is not below 37.5; four is 30. (3, 4) is five as well.
    grown = lesions(rectangle(SHAPE, 60, 90, 1, 1), UM).labels > 0
    assert grown[60, 86]
    assert not grown[60, 85]
    assert grown[63, 93]
    assert not grown[63, 94]
    assert not grown[64, 93]


def test_holes_are_filled() -> None:
    truth = lesions(ring(SHAPE, 60, 100, 20, 30), UM)
    assert truth.labels[60, 100] == 1
    assert truth.count == 1


def test_a_bay_is_no_hole() -> None:
    truth = lesions(corner(SHAPE, 20, 20, 60, 4), UM)
    assert truth.labels[30, 60] == 0


@pytest.mark.parametrize(("width", "isolated"), [(31, True), (32, False)])
def test_isolated_cells_end_at_275_um(width: int, isolated: bool) -> None:
    # The ellipse of a row of n cells has the major axis 4 sqrt((n^2 - 1) / 12): 35.78 and 36.93
    # cells, 268.3 and 277.0 um.
    axis = 4 * np.sqrt((width**2 - 1) / 12) * UM
    truth = Lesions(rectangle(SHAPE, 3, 3, 1, width).astype(np.int32), (axis,))
    from skimage.measure import regionprops

    (region,) = regionprops(truth.labels)
    assert region.axis_major_length * UM == pytest.approx(axis, rel=1e-12)
    assert truth.itc == ([1] if isolated else [])
    assert truth.count == 1 - isolated


def test_sizes_of_discs() -> None:
    # A disc's major axis is its diameter: 10 cells grown by almost 5 each side are 150 um.
    small, large = disc(SHAPE, 60, 30, 5), disc(SHAPE, 60, 120, 25)
    truth = lesions(small | large, UM)
    assert truth.axes_um[truth.labels[60, 30] - 1] == pytest.approx(150, rel=0.05)
    assert truth.axes_um[truth.labels[60, 120] - 1] == pytest.approx(450, rel=0.03)
    assert truth.itc == [truth.labels[60, 30]]
    assert truth.count == 1


def shapes() -> dict[str, Mask]:
    rng = np.random.default_rng(7)
    return {
        "none": blank(*SHAPE),
        "all": ~blank(*SHAPE),
        "one cell in the corner": rectangle(SHAPE, 0, 0, 1, 1),
        "a ring cut by the edge": ring(SHAPE, 5, 195, 20, 26),
        "discs": disc(SHAPE, 30, 30, 12) | disc(SHAPE, 90, 160, 20) | disc(SHAPE, 60, 80, 3),
        "a U open to the edge": rectangle(SHAPE, 0, 40, 30, 60) & ~rectangle(SHAPE, 0, 55, 15, 30),
        "noise": rng.random(SHAPE) < 0.003,
    }


@pytest.mark.parametrize("name", shapes())
def test_masks_are_those_of_monai(name: str) -> None:
    """monai.apps.pathology has steps 1 and 2 as well, on the whole slide at once."""
    from monai.apps.pathology.utils import compute_isolated_tumor_cells, compute_multi_instance_mask

    mask = shapes()[name]
    truth = lesions(mask, UM)
    if not mask.any():  # monai's distance is measured to nothing at all
        assert not truth.labels.any()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # skimage renamed the major axis
        labels = compute_multi_instance_mask(mask.astype(np.uint8), 75 / 2 / UM)
        itc = compute_isolated_tumor_cells(labels, 275 / UM)
    assert np.array_equal(truth.labels, labels)
    assert truth.itc == itc


# --- step 3: which detection counts as what


def test_hits_misses_false_positives_and_isolated_cells() -> None:
    big = disc(SHAPE, 40, 40, 20)
    missed = rectangle(SHAPE, 90, 120, 20, 60)
    isolated = disc(SHAPE, 20, 150, 4)
    truth = lesions(big | missed | isolated, UM)
    points = detected(
        (40, 40, 0.7),
        (50, 40, 0.9),  # the lesion's best
        (40, 64, 0.8),  # outside the annotation by 30 um: still the lesion
        (40, 66, 0.6),  # 45 um: false
        (20, 150, 0.99),  # on isolated cells: neither
        (110, 5, 0.55),
    )
    found = score(points, truth)
    assert sorted(found.false.tolist()) == pytest.approx([0.55, 0.6], abs=1e-6)
    assert sorted(found.found.tolist()) == pytest.approx([0, 0.9], abs=1e-6)


def test_on_a_normal_slide_everything_is_false() -> None:
    found = score(detected((1, 1, 0.6), (2, 9, 0.9)), lesions(blank(*SHAPE), UM))
    assert len(found.false) == 2
    assert len(found.found) == 0


def test_no_detection_at_all() -> None:
    found = score(detected(), lesions(disc(SHAPE, 60, 60, 30), UM))
    assert len(found.false) == 0
    assert found.found.tolist() == [0]


# --- steps 4 and 5: the curve


def test_the_curve_by_hand() -> None:
    """Two slides, four lesions of which one is missed, three false positives.

    From the highest score down, false positives a slide and share found:
    0.9 lesion (0, 1/4); 0.8 false (1/2, 1/4); 0.7 lesion (1/2, 2/4); 0.6 lesion and false
    (1, 3/4); 0.5 false (3/2, 3/4). So 1/4 reads half way from (0, 1/4) to (1/2, 1/4): vertical
    pieces are left at their upper end.
    """
    curve = froc([scored([0.8, 0.5], [0.9, 0.6]), scored([0.6], [0.7, 0.0])])
    expected = [0.25, 0.5, 0.75, 0.75, 0.75, 0.75]
    assert curve.at.tolist() == pytest.approx(expected, abs=1e-15)
    assert curve.score == pytest.approx(sum(expected) / 6, abs=1e-15)
    points = [(0, 0), (0, 0.25), (0.5, 0.25), (0.5, 0.5), (1, 0.75), (1.5, 0.75)]
    assert list(zip(curve.rates, curve.sensitivity, strict=True)) == points


def test_sensitivity_is_interpolated() -> None:
    # (0, 0) to (1, 1) through one score that is at once a lesion's and false.
    curve = froc([scored([0.9], [0.9])])
    assert curve.at.tolist() == [0.25, 0.5, 1, 1, 1, 1]


def test_a_perfect_detector_has_one_whatever_it_says() -> None:
    # Without the 0 of a missed lesion the challenge's script would drop its only score.
    curve = froc([scored([], [0.9, 0.9]), scored([], [])])
    assert curve.at.tolist() == [1] * 6
    assert curve.score == 1


def test_a_blind_detector_has_none() -> None:
    assert froc([scored([0.9] * 20, [0.0, 0.0])]).score == 0


def test_no_lesion_anywhere_is_undefined() -> None:
    curve = froc([scored([0.9], []), scored([], [])])
    assert np.isnan(curve.score)
    assert np.isnan(curve.at).all()


def challenge(slides: list[Scored]) -> NDArray[np.float64]:
    """What the challenge's script computes, in its own steps."""
    false = [float(s) for slide in slides for s in slide.false]
    found = [float(s) for slide in slides for s in slide.found]
    total_false, total_found = [], []
    for threshold in sorted(set(false + found))[1:]:
        total_false.append(sum(s >= threshold for s in false))
        total_found.append(sum(s >= threshold for s in found))
    x = np.array([*total_false, 0]) / len(slides)
    y = np.array([*total_found, 0]) / len(found)
    return np.interp(RATES, x[::-1], y[::-1])


def draw(seed: int, slides: int = 6) -> list[Scored]:
    """Scores with many ties; the first slide has a missed lesion."""
    rng = np.random.default_rng(seed)

    def some(most: int) -> NDArray[np.float32]:
        return (rng.integers(1, 12, rng.integers(0, most)) / 12).astype(np.float32)

    drawn = [Scored(some(9), some(4) * (rng.random() < 0.8)) for _ in range(slides)]
    return [scored([0.4], [0.0, 0.7]), *drawn]


@settings(max_examples=80)
@given(st.integers(0, 2**32 - 1))
def test_the_curve_is_the_challenge_s(seed: int) -> None:
    slides = draw(seed)
    assert froc(slides).at == pytest.approx(challenge(slides), abs=1e-12)


@settings(max_examples=80)
@given(st.integers(0, 2**32 - 1))
def test_weights_are_repetitions(seed: int) -> None:
    slides = draw(seed)
    times = np.random.default_rng(seed).integers(0, 4, len(slides))
    times[0] = max(times[0], 1)
    repeated = [slide for slide, n in zip(slides, times, strict=True) for _ in range(n)]
    assert ResampledFroc(slides).at(times)[:-1] == pytest.approx(froc(repeated).at, abs=1e-12)


# --- the interval


def test_an_interval_holds_its_estimate_and_comes_again() -> None:
    slides = [s for seed in range(8) for s in draw(seed)]
    curve, found = froc(slides), intervals(slides, 300, seed=1)
    assert [i.value for i in found] == pytest.approx([*curve.at, curve.score], abs=1e-12)
    assert all(i.low <= i.value <= i.high for i in found)
    assert found[-1].low < found[-1].high
    assert intervals(slides, 300, seed=1) == found != intervals(slides, 300, seed=2)


def test_the_interval_of_two_slides_by_hand() -> None:
    # One slide finds its lesion and one does not: a draw has 0, 1/2 or 1, with the chances 1/4,
    # 1/2 and 1/4, so the interval reaches from one end to the other.
    found = intervals([scored([], [0.9]), scored([], [0.0])], 400)
    assert [(i.low, i.value, i.high) for i in found] == [(0, 0.5, 1)] * 7


def test_draws_without_lesions_are_counted() -> None:
    slides = [scored([], [0.9]), scored([], [0.0]), *[scored([0.5], [])] * 2]
    (*_, mean) = intervals(slides, 1000)
    # (1/2)^4 of the draws, within four standard errors.
    assert mean.undefined == pytest.approx(62.5, abs=4 * 7.7)


def test_one_slide_with_lesions_gives_no_interval() -> None:
    for interval in intervals([scored([0.3], [0.9]), scored([0.8], [])]):
        assert np.isfinite(interval.value)
        assert np.isnan([interval.low, interval.high]).all()


# --- the picture


def test_the_picture_tells_the_scores() -> None:
    slides = draw(3)
    curve = froc(slides)
    drawn = froc_figure(
        {"a": (curve, intervals(slides, 20)), "b": (curve, intervals(slides, 0))}, ""
    )
    (panel,) = drawn.axes
    legend = panel.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        f"{name}: score {curve.score:.3f}" for name in "ab"
    ]
    line = panel.lines[0]
    at_two = np.interp(2, line.get_xdata(), line.get_ydata())
    assert at_two == pytest.approx(curve.at[3], abs=0.01)


def test_the_picture_says_what_is_undefined() -> None:
    slides = [scored([0.5], [])]
    drawn = froc_figure({"a": (froc(slides), intervals(slides))}, "nothing")
    assert [text.get_text() for text in drawn.axes[0].texts] == [
        "undefined: there is no lesion to find"
    ]


# --- real annotations


def test_real_lesions_are_all_found_by_a_perfect_map(real_data: Path) -> None:
    """A map that is the annotation itself, in cells of 32 level-0 px as the challenge's.

    Every lesion holds a region of the map, so components find them all.
    """
    um, count = 32 * 0.243, 0
    slides = []
    for slide in ("077", "103", "104"):
        path = real_data / "camelyon16" / f"tumor_{slide}.json"
        polygons = load_annotations(path).tumour()
        bounds = np.array([polygon.bounds for polygon in polygons])
        x, y = bounds[:, :2].min(axis=0) - 3200
        right, bottom = bounds[:, 2:].max(axis=0) + 3200
        shape = int((bottom - y) / 32), int((right - x) / 32)
        tumour = rasterise(polygons, shape, (32, 32), (float(x), float(y)))
        truth = lesions(tumour, um)
        assert 1 <= len(truth.axes_um) <= len(polygons)
        count += truth.count
        slides.append(score(components(np.where(tumour, np.float32(0.9), np.float32(0.1))), truth))
    assert count >= 15
    assert froc(slides).score == 1


# --- all steps at once, on synthetic slides


def test_synthetic_slides_end_to_end() -> None:
    """Three slides of 120 x 200 cells; every detection is worked out by hand.

    A: a disc found at 0.9, an L found at 0.6, isolated cells said 0.99, one false at 0.8.
    B: a ring whose empty middle is said 0.7: a hole is tumour, so it is found.
    C: normal, false at 0.5 and 0.65.
    Three lesions, three false positives in three slides. From the top: 0.9 found (0, 1/3), 0.8
    false (1/3, 1/3), 0.7 found (1/3, 2/3), 0.65 false (2/3, 2/3), 0.6 found (2/3, 1), 0.5 false
    (1, 1). At 1/4: 1/3; at 1/2: 2/3; from 1 on: 1.
    """
    a = disc(SHAPE, 30, 30, 20) | corner(SHAPE, 60, 120, 50, 10) | disc(SHAPE, 20, 170, 4)
    b = ring(SHAPE, 60, 100, 25, 35)
    maps = [
        (a, {(30, 30): 0.9, (105, 160): 0.6, (20, 170): 0.99, (100, 20): 0.8}),
        (b, {(60, 100): 0.7}),
        (blank(*SHAPE), {(10, 10): 0.5, (100, 180): 0.65}),
    ]
    for detect in (lambda v: suppress(v, UM, 187, 0.5), lambda v: components(v, 0.5)):
        slides = [score(detect(heatmap(SHAPE, peaks)), lesions(mask, UM)) for mask, peaks in maps]
        curve = froc(slides)
        assert curve.at.tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1], abs=1e-15)
        assert curve.score == pytest.approx(5 / 6, abs=1e-15)
