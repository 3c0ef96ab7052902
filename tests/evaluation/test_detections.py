"""Detections by suppression and components, against counts by hand and a plain algorithm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lesions import UM, Values, corner, heatmap, ring

from slidescan.evaluation import detections
from slidescan.evaluation.detections import Detections, components, suppress

SHAPE = (60, 80)


def cells(found: Detections) -> list[tuple[int, int]]:
    return list(zip(found.rows.tolist(), found.columns.tolist(), strict=True))


def plainly(values: Values, radius: float, threshold: float) -> list[tuple[int, int]]:
    """The algorithm of Liu et al. 2017, step by step: take the maximum, clear its surroundings."""
    left, reported = np.where(np.isnan(values), -1, values), []
    y, x = np.ogrid[: values.shape[0], : values.shape[1]]
    while left.max() >= threshold:
        row, column = np.unravel_index(left.argmax(), left.shape)
        reported.append((int(row), int(column)))
        left[(y - row) ** 2 + (x - column) ** 2 <= radius**2] = -1
    return reported


def test_a_disc_is_silenced_and_no_more() -> None:
    # Ten cells of 7.5 um are 75 um: (0, 10) is within, (0, 11) and the corner (8, 8) are not.
    peaks = {(20, 20): 0.9, (20, 30): 0.8, (20, 9): 0.7, (28, 28): 0.6, (27, 27): 0.55}
    found = suppress(heatmap(SHAPE, peaks), UM, radius_um=75, threshold=0.5)
    assert cells(found) == [(20, 20), (20, 9), (28, 28)]
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.6], abs=1e-6)
    assert found.scores.dtype == np.float32


def test_ties_and_the_threshold_itself() -> None:
    peaks = {(5, 5): 0.5, (5, 4): 0.5, (40, 2): 0.5, (59, 79): 0.49}
    assert cells(suppress(heatmap(SHAPE, peaks), UM, 75, 0.5)) == [(5, 4), (40, 2)]
    assert cells(components(heatmap(SHAPE, peaks), 0.5)) == [(5, 4), (40, 2)]


def test_radius_zero_keeps_every_cell() -> None:
    assert len(suppress(heatmap((4, 5), {}, base=0.8), UM, 0, 0.5)) == 20


@pytest.mark.parametrize("values", [np.full((9, 9), np.nan), np.full((9, 9), 0.3)])
def test_nothing_to_find(values: Values) -> None:
    values = values.astype(np.float32)
    assert len(suppress(values, UM)) == len(components(values)) == 0


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 90).map(lambda n: n / 10), st.sampled_from([3, 1000])
)
def test_suppression_is_the_plain_algorithm(seed: int, radius: float, levels: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.integers(0, levels, (17, 23)) / levels).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = np.nan
    assert cells(suppress(values, UM, radius * UM, 0.4)) == plainly(values, radius, 0.4)


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random((50, 50)).astype(np.float32)
    whole = cells(suppress(values, UM, 30, 0.2))
    monkeypatch.setattr(detections, "_BATCH", 7)
    assert cells(suppress(values, UM, 30, 0.2)) == whole == plainly(values, 4, 0.2)


def test_components_meet_at_corners_and_report_their_maximum() -> None:
    values = heatmap(SHAPE, {})
    values[corner(SHAPE, 10, 10, 9, 2)] = 0.7
    values[12, 11] = 0.95
    values[19, 19] = 0.8  # touches the L's foot (18, 18) by its corner alone
    values[ring(SHAPE, 40, 50, 5, 7)] = 0.6
    found = components(values, 0.5)
    assert cells(found) == [(12, 11), (33, 50)]  # the ring's uppermost cell, not its empty middle
    assert found.scores.tolist() == pytest.approx([0.95, 0.6], abs=1e-6)


def test_unscanned_cells_part_components() -> None:
    values = heatmap((3, 9), {}, base=0.9)
    values[:, 4] = np.nan
    assert cells(components(values, 0.5)) == [(0, 0), (0, 5)]
