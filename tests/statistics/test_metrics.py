"""Metrics against scikit-learn, intervals against published ones, resamples against copies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as reference

from slidescan.evaluation.patch_report import evaluate
from slidescan.evaluation.report import Metric, Report, as_json, markdown, text
from slidescan.evaluation.scores import Scores
from slidescan.statistics.arrays import Counts, Floats
from slidescan.statistics.bootstrap import bootstrap, intervals, resample
from slidescan.statistics.metrics import BINS, Evaluation, OperatingPoints, names

CHOICES = OperatingPoints(threshold=0.4, specificity=0.9, sensitivity=0.8)


def draw(count: int, seed: int, decimals: int = 17) -> tuple[NDArray[np.int64], Floats]:
    """Labels and probabilities that correlate with them; few decimals make ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    p = 1 / (1 + np.exp(-rng.normal(2 * labels - 1, 1.5)))
    return labels, np.round(p, decimals)


def found(labels: NDArray[np.int64], p: Floats, counts: Counts | None = None) -> dict[str, float]:
    counts = np.ones(len(labels), np.int64) if counts is None else counts
    values = Evaluation(labels, p, CHOICES).values(counts).tolist()
    return dict(zip(names(CHOICES), values, strict=True))


def expected(labels: NDArray[np.int64], p: Floats) -> dict[str, float]:
    called = p >= CHOICES.threshold
    false, true, _ = reference.roc_curve(labels, p, drop_intermediate=False)
    return {
        "roc_auc": reference.roc_auc_score(labels, p),
        "average_precision": reference.average_precision_score(labels, p),
        "accuracy": reference.accuracy_score(labels, called),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, called),
        "f1": reference.f1_score(labels, called),
        "sensitivity": reference.recall_score(labels, called),
        "specificity": reference.recall_score(labels, called, pos_label=0),
        "sensitivity_at_specificity": max(true[1 - false >= CHOICES.specificity - 1e-12]),
        "specificity_at_sensitivity": max((1 - false)[true >= CHOICES.sensitivity - 1e-12]),
        "nll": reference.log_loss(labels, p, labels=[0, 1]),
        "brier": reference.brier_score_loss(labels, p),
        "ece": ece(labels, p),
    }


def ece(labels: NDArray[np.int64], p: Floats) -> float:
    """By the definition, bin by bin."""
    total = 0.0
    for i in range(BINS):
        inside = (p * BINS >= i) & ((p * BINS < i + 1) | (i == BINS - 1))
        if inside.any():
            total += inside.sum() * abs(labels[inside].mean() - p[inside].mean())
    return total / len(p)


@pytest.mark.parametrize(("count", "decimals"), [(10, 17), (1000, 17), (1000, 2), (57, 1)])
def test_every_metric_is_scikit_learns(count: int, decimals: int) -> None:
    labels, p = draw(count, count + decimals, decimals)
    assert found(labels, p) == pytest.approx(expected(labels, p), abs=1e-12, rel=1e-12)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=40))
@settings(max_examples=60)
def test_every_metric_is_scikit_learns_with_many_ties_and_certain_mistakes(
    rows: list[tuple[bool, int]],
) -> None:
    labels, p = np.array([int(label) for label, _ in rows]), np.array([k / 8 for _, k in rows])
    ours = found(labels, p)
    if len(set(labels.tolist())) == 2:
        assert ours == pytest.approx(expected(labels, p), abs=1e-12, rel=1e-12)
    else:
        assert ours["nll"] == pytest.approx(reference.log_loss(labels, p, labels=[0, 1]), abs=1e-12)


def test_drawing_patches_any_number_of_times_equals_copying_them() -> None:
    labels, p = draw(300, 1, 2)
    counts = np.random.default_rng(2).integers(0, 4, 300)
    copied = expected(np.repeat(labels, counts), np.repeat(p, counts))
    assert found(labels, p, counts) == pytest.approx(copied, abs=1e-12, rel=1e-12)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_leaves_the_ranking_undefined_and_nothing_else(label: int) -> None:
    ours = found(np.full(4, label), np.array([0.1, 0.3, 0.6, 0.9]))
    undefined = {key for key, value in ours.items() if math.isnan(value)}
    ranking = {
        "roc_auc", "average_precision", "balanced_accuracy", "sensitivity_at_specificity",
        "specificity_at_sensitivity",
    }  # fmt: skip
    assert undefined == ranking | ({"specificity"} if label else {"sensitivity"})
    assert ours["accuracy"] == 0.5
    assert ours["brier"] == pytest.approx(np.mean((np.array([0.1, 0.3, 0.6, 0.9]) - label) ** 2))


def test_a_share_that_binary_cannot_hold_is_met_exactly() -> None:
    # 95 of 100 normal patches below all others: a specificity of 0.95, not a little less.
    labels = np.array([0] * 100 + [1] * 10)
    p = np.concatenate([np.full(95, 0.1), np.full(5, 0.8), np.full(10, 0.8)])
    ours = Evaluation(labels, p, OperatingPoints(specificity=0.95)).values(np.ones(110, np.int64))
    assert dict(zip(names(CHOICES), ours, strict=True))["sensitivity_at_specificity"] == 1


# --- intervals ------------------------------------------------------------------------------

SPATIAL = (
    48, 36, 20, 29, 42, 42, 20, 42, 22, 41, 45, 14, 6,
    0, 33, 28, 34, 4, 32, 24, 47, 41, 24, 26, 30, 41,
)  # fmt: skip
"""Efron and Tibshirani 1993, An Introduction to the Bootstrap, table 14.1: test A, 26 children."""


def variance(counts: Counts) -> Floats:
    x = np.array(SPATIAL)
    mean = counts @ x / counts.sum()
    return np.array([counts @ (x - mean) ** 2 / counts.sum()])


def test_a_percentile_interval_is_that_of_efron_and_tibshirani() -> None:
    # Table 14.2: the variance is 171.5, and the 90 % percentile interval of 2000 resamples is
    # 100.8 to 233.9. Their bounds come from a draw, with a standard error of about 2 and 2.5.
    ((interval),) = bootstrap(variance, len(SPATIAL), 20_000, seed=0, level=0.90)
    assert interval.value == pytest.approx(171.5, abs=0.05)
    assert interval.low == pytest.approx(100.8, abs=3 * 2.0)
    assert interval.high == pytest.approx(233.9, abs=3 * 2.5)


def test_resampling_patches_gives_the_standard_error_of_hanley_and_mcneil() -> None:
    # Hanley and McNeil 1982, Radiology 143: 109 CT images rated 1 to 5; area 0.893, standard
    # error 0.032 by their formula, and by the bootstrap within a tenth of it.
    ratings = {0: (33, 6, 6, 11, 2), 1: (3, 2, 2, 11, 33)}
    labels = np.repeat((0, 1), (58, 51))
    p = np.concatenate([np.repeat(np.arange(1, 6) / 6, ratings[label]) for label in (0, 1)])
    values = Evaluation(labels, p)
    samples = resample(lambda counts: values.values(counts)[:1], 109, 4000, seed=0)
    assert values.values(np.ones(109, np.int64))[0] == pytest.approx(0.893, abs=5e-4)
    assert samples.std() == pytest.approx(0.032, abs=0.0033)


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, inside = np.random.default_rng(0), 0
    for i in range(200):
        x = rng.normal(size=60)
        (found,) = bootstrap(lambda c, x=x: np.array([c @ x / c.sum()]), 60, 200, i)
        inside += found.low <= 0 <= found.high
    assert 0.89 <= inside / 200 <= 0.98  # 0.945 by theory for 60; 0.016 is its standard error


def test_resampling_slides_widens_the_intervals_of_patches_that_are_alike() -> None:
    rng = np.random.default_rng(0)
    slides, of_slide = tuple(f"s{i:02}" for i in range(20) for _ in range(50)), np.arange(20) % 2
    p = np.repeat(np.clip(0.3 + 0.3 * of_slide + rng.normal(0, 0.2, 20), 0.01, 0.99), 50)
    ids, labels = tuple(map(str, range(1000))), np.repeat(of_slide, 50)
    by_patch, by_slide = (
        evaluate(Scores(ids, labels, p, groups), OperatingPoints(), 200, 0).metrics[0]
        for groups in (None, slides)
    )
    assert by_patch.value == by_slide.value
    assert by_slide.high - by_slide.low > 3 * (by_patch.high - by_patch.low)


def test_resamples_of_one_class_are_left_out_and_counted() -> None:
    scores = Scores(tuple("abcd"), np.array([0, 0, 0, 1]), np.array([0.1, 0.2, 0.6, 0.5]))
    auc = evaluate(scores, OperatingPoints(), 500, 0).metrics[0]
    drawn = int(auc.note.split()[2])
    assert drawn == pytest.approx(500 * 0.75**4, abs=60)  # the one with tumour is not drawn
    assert 0 <= auc.low <= auc.high <= 1


def test_one_slide_gives_no_interval() -> None:
    scores = Scores(
        tuple("abcd"), np.array([0, 1, 0, 1]), np.array([0.1, 0.7, 0.6, 0.5]), ("s",) * 4
    )
    report = evaluate(scores, OperatingPoints(), 100, 0)
    assert all(math.isnan(m.low) for m in report.metrics)
    assert any("one slide" in note for note in report.notes)


def test_intervals_are_the_same_for_a_seed_and_change_with_it() -> None:
    first, again, other = (bootstrap(variance, 26, 50, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_what_is_undefined_has_no_interval() -> None:
    values, samples = np.array([float("nan"), 1.0]), np.array([[1.0, 0.5], [float("nan"), 1.5]])
    undefined, one = intervals(values, samples, 0.5)
    assert math.isnan(undefined.low)
    assert undefined.undefined == 1
    assert (one.low, one.high) == (0.75, 1.25)


# --- reports --------------------------------------------------------------------------------


def test_a_report_says_the_same_in_every_form() -> None:
    nan = float("nan")
    rows = [Metric("auc", "ROC | AUC", nan, note="one label"), Metric("f1", "F1", 0.5, 0.25, 0.75)]
    report = Report("4 patches", {"seed": 1}, rows, ["Mind the gap."])
    for form in text(report), markdown(report):
        assert "undefined" in form
        assert "one label" in form
        assert "0.2500 to 0.7500" in form
        assert "Mind the gap." in form
    assert "ROC \\| AUC" in markdown(report)
    metrics = as_json(report)["metrics"]
    assert metrics == {
        "auc": {"name": "ROC | AUC", "value": None, "low": None, "high": None, "note": "one label"},
        "f1": {"name": "F1", "value": 0.5, "low": 0.25, "high": 0.75},
    }
