"""Slides and cells: features by hand, AUCs against scikit-learn, a forest without leakage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesions import UM, Values, corner, disc, rectangle, ring
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from slidescan.evaluation import pixels
from slidescan.evaluation.pixels import Pixels, bins, thinned
from slidescan.evaluation.slide_level import FEATURES, Auc, features, forest, too_few
from slidescan.statistics.bootstrap import bootstrap
from slidescan.statistics.ranking import Curve

SHAPE = (60, 80)
CELL_MM2 = UM**2 / 1e6


def tissue(values: float = 0.1) -> Values:
    """40 columns scanned, the others not."""
    found = np.full(SHAPE, values, np.float32)
    found[:, 40:] = np.nan
    return found


# --- features


def test_features_by_hand() -> None:
    values = tissue()
    values[rectangle(SHAPE, 10, 10, 20, 5)] = 0.75  # 100 cells, from 0.7 up
    values[12, 12] = 1.0
    values[50, 30:33] = 0.95  # three cells, a region of its own
    found = features(values, UM)
    assert list(found) == list(FEATURES)
    scanned = 60 * 40
    expected = {
        "maximum": 1,
        # The 100 highest: 1, three of 0.95 and 96 of 0.75.
        "top_100_mean": (1 + 3 * 0.95 + 96 * 0.75) / 100,
        "mean": (1 + 3 * 0.95 + 99 * 0.75 + (scanned - 103) * 0.1) / scanned,
        "area_mm2_0.5": 103 * CELL_MM2,
        "area_mm2_0.8": 4 * CELL_MM2,
        "share_0.7": 103 / scanned,
        "share_0.9": 4 / scanned,
        "regions_0.5": 2,
        "regions_0.9": 2,
        "largest_area_mm2_0.5": 100 * CELL_MM2,
        "largest_area_mm2_0.9": 3 * CELL_MM2,
        "largest_major_axis_um_0.5": 4 * np.sqrt((20**2 - 1) / 12) * UM,
        "largest_eccentricity_0.5": np.sqrt(1 - (5**2 - 1) / (20**2 - 1)),
        "largest_extent_0.5": 1,
        "largest_solidity_0.5": 1,
        "largest_mean_0.5": (1 + 99 * 0.75) / 100,
        "largest_maximum_0.5": 1,
        "largest_eccentricity_0.9": 1,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


def test_shapes_differ() -> None:
    found = {}
    for name, mask in {
        "disc": disc(SHAPE, 30, 20, 12),
        "ring": ring(SHAPE, 30, 20, 8, 12),
        "corner": corner(SHAPE, 10, 5, 30, 4),
    }.items():
        values = tissue()
        values[mask] = 0.9
        found[name] = features(values, UM)
    assert found["disc"]["largest_eccentricity_0.5"] == pytest.approx(0, abs=0.05)
    assert found["disc"]["largest_solidity_0.5"] > 0.9
    assert found["ring"]["largest_solidity_0.5"] < 0.7
    assert found["corner"]["largest_extent_0.5"] == pytest.approx((30 * 4 + 26 * 4) / 900)


@pytest.mark.parametrize("values", [np.full(SHAPE, np.nan, np.float32), tissue(0.0)])
def test_without_scan_or_tumour_all_is_finite(values: Values) -> None:
    assert all(v == 0 for v in features(values, UM).values())


def test_less_cells_than_are_averaged() -> None:
    values = np.full((3, 3), np.nan, np.float32)
    values[0, :2] = 0.2, 0.4
    assert features(values, UM)["top_100_mean"] == pytest.approx(0.3)


# --- AUC of slides


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_auc_of_slides_drawn_several_times(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.append([0, 1], rng.integers(0, 2, 12))
    scores = rng.integers(0, 6, (3, 14)) / 5
    counts = rng.integers(0, 4, 14)
    counts[:2] = 1
    expected = [roc_auc_score(labels, s, sample_weight=counts) for s in scores]
    assert Auc(labels, scores).at(counts) == pytest.approx(expected, abs=1e-12)


def test_one_class_is_undefined_and_a_rule_without_scores_spoils_no_other() -> None:
    assert np.isnan(Auc(np.ones(3, np.int64), np.zeros((2, 3))).at(np.ones(3, np.int64))).all()
    auc = Auc(np.array([0, 1]), np.array([[0.1, 0.2], [np.nan, np.nan]]))
    first, second = bootstrap(auc.at, 2, 50)
    assert first.value == 1
    assert np.isnan(second.value)


# --- the forest


def study(slides: int, signal: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(slides) % 2
    table = rng.normal(size=(slides, 5))
    table[:, 2] += signal * labels
    return table, labels.astype(np.int64)


def test_a_forest_learns_and_repeats_itself() -> None:
    table, labels = study(24, 4)
    folds = np.arange(24) % 4
    p = forest(table, labels, folds)
    assert Auc(labels, p[None]).at(np.ones(24, np.int64))[0] > 0.95
    assert np.array_equal(p, forest(table, labels, folds))


def test_no_slide_is_scored_by_a_forest_that_saw_it() -> None:
    # Random labels: a forest that had seen a slide would know its label, and the AUC be near 1.
    table, labels = study(40, 0)
    p = forest(table, labels, np.arange(40) % 5)
    assert Auc(labels, p[None]).at(np.ones(40, np.int64))[0] < 0.75
    # And its own label changes nothing for a slide that is left out.
    flipped = labels.copy()
    flipped[0] = 1 - labels[0]
    folds = np.arange(40) % 5
    assert forest(table, flipped, folds)[0] == forest(table, labels, folds)[0]


def test_folds_are_counted() -> None:
    table, labels = study(12, 2)
    done: list[int] = []
    forest(table, labels, np.arange(12) % 3, on_fold=lambda: done.append(1))
    assert len(done) == 3


def test_too_few_slides_of_a_class() -> None:
    labels = np.array([1, 0, 0, 0])
    assert too_few(labels, np.arange(4)) == (
        "without fold 0 no tumour slide is left to train the forest on"
    )
    assert np.isnan(forest(np.zeros((4, 2)), labels, np.arange(4))).all()
    assert too_few(np.array([1, 1, 0, 0]), np.arange(4)) == ""


# --- cells


def drawn(seed: int, size: tuple[int, int] = (50, 70)) -> tuple[Values, np.ndarray]:
    """Values like those of a network: most near 0 or 1; every tenth is not scanned."""
    rng = np.random.default_rng(seed)
    truth = rng.random(size) < 0.2
    logits = rng.normal(np.where(truth, 3, -4), 3)
    values = (1 / (1 + np.exp(-logits))).astype(np.float32)
    values[rng.random(size) < 0.1] = np.nan
    return values, truth


def test_cells_against_scikit_learn() -> None:
    values, truth = drawn(0)
    found = Pixels(0.5)
    found.add(values, truth)
    known = np.isfinite(values)
    y, p = truth[known], values[known]
    assert found.roc().area == pytest.approx(roc_auc_score(y, p), abs=1e-5)
    area = found.precision_recall().area
    assert area == pytest.approx(average_precision_score(y, p), abs=1e-5)
    assert found.dice == pytest.approx(f1_score(y, p >= 0.5), abs=1e-12)
    assert found.unscanned == np.count_nonzero(truth & ~known)
    assert found.cells == np.count_nonzero(known)


def test_slides_add_up_and_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, both = Pixels(0.5), Pixels(0.5), Pixels(0.5)
    one.add(*drawn(1))
    other.add(*drawn(2))
    values, truth = zip(drawn(1), drawn(2), strict=True)
    both.add(np.concatenate(values), np.concatenate(truth))
    one.merge(other)
    assert np.array_equal(one.counts, both.counts)
    assert np.array_equal(one.confusion, both.confusion)
    assert one.unscanned == both.unscanned
    rows = Pixels(0.5)
    monkeypatch.setattr(pixels, "PART_CELLS", 100)
    rows.add(np.concatenate(values), np.concatenate(truth))
    assert np.array_equal(rows.counts, both.counts)


def test_cells_by_hand() -> None:
    # Four cells of tumour, two of them called and one called wrongly; one of tumour not scanned.
    values = np.array([[0.9, 0.8, 0.2, 0.6], [0.1, 0.1, np.nan, 0.3]], np.float32)
    truth = np.array([[1, 1, 1, 0], [0, 0, 1, 1]], bool)
    found = Pixels(0.5)
    found.add(values, truth)
    assert found.confusion.tolist() == [[2, 1], [2, 2]]
    assert found.dice == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert found.unscanned == 1
    # 12 pairs; the 0.6 is above 0.2 and 0.3: ten are in order.
    assert found.roc().area == pytest.approx(10 / 12)


def test_one_class_of_cells_is_undefined() -> None:
    found = Pixels(0.5)
    found.add(np.full((3, 3), 0.2, np.float32), np.zeros((3, 3), bool))
    assert np.isnan([found.dice, found.roc().area, found.precision_recall().area]).all()


@settings(max_examples=200)
@given(st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_bins_keep_the_order(a: float, b: float) -> None:
    low, high = bins(np.array(sorted((a, b)), np.float32))
    assert 0 <= low <= high < pixels.BINS


def test_bins_are_narrow_at_both_ends() -> None:
    near = np.array([1e-6, 1.01e-6, 1 - 1e-3, 1 - 1.01e-3, 0.3, 0.301], np.float32)
    assert len(set(bins(near).tolist())) == 6


def test_a_curve_with_fewer_points() -> None:
    x = np.linspace(0, 1, 5000)
    thin = thinned(Curve(x, x**0.5, 0.9), 100)
    assert len(thin.x) <= 100
    assert (thin.x[0], thin.x[-1], thin.area) == (0, 1, 0.9)
    assert np.abs(np.diff(thin.y)).max() < 0.05
