"""DeLong's test against its definition and the bootstrap, and its error rate under the null."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from slidescan.statistics.bootstrap import resample
from slidescan.statistics.delong import delong_p
from slidescan.statistics.metrics import Evaluation

Floats = NDArray[np.float64]


def draw(count: int, seed: int, gain: float = 0.0) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Labels, and two correlated scores of which the second is better by `gain`; with ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    shared = rng.normal(0, 1, count)
    first, second = (
        np.round(shared + rng.normal((1 + more) * labels, 0.7), 1) for more in (0, gain)
    )
    return labels, first, second


def by_definition(labels: NDArray[np.int64], first: Floats, second: Floats) -> float:
    """DeLong et al. 1988, section 2: the matrix of pairs, its means, and their covariance."""
    matrices = []
    for scores in (first, second):
        x, y = scores[labels == 1], scores[labels == 0]
        matrices.append((x[:, None] > y) + 0.5 * (x[:, None] == y))
    s10 = np.cov([matrix.mean(axis=1) for matrix in matrices])
    s01 = np.cov([matrix.mean(axis=0) for matrix in matrices])
    m, n = matrices[0].shape
    covariance, contrast = s10 / m + s01 / n, np.array([1, -1])
    difference = contrast @ [matrix.mean() for matrix in matrices]
    z = difference / math.sqrt(contrast @ covariance @ contrast)
    return math.erfc(abs(z) / math.sqrt(2))


@pytest.mark.parametrize(("count", "gain"), [(30, 0.5), (200, 0.2), (201, 0.0)])
def test_the_p_value_is_that_of_the_definition(count: int, gain: float) -> None:
    given = draw(count, seed=count, gain=gain)
    assert delong_p(*given) == pytest.approx(by_definition(*given), rel=1e-9)
    labels, first, second = given
    assert delong_p(labels, second, first) == pytest.approx(delong_p(*given), rel=1e-12)


def test_the_standard_error_is_that_of_the_paired_bootstrap() -> None:
    labels, first, second = draw(400, seed=2, gain=0.4)
    rank = [np.argsort(np.argsort(s)) / 400 for s in (first, second)]
    found = [Evaluation(labels, p) for p in rank]
    samples = resample(
        lambda counts: found[1].values(counts)[:1] - found[0].values(counts)[:1], 400, 1500
    )
    every = np.ones(400, np.int64)
    difference = float(found[1].values(every)[0] - found[0].values(every)[0])
    p_value = math.erfc(abs(difference) / samples.std() / math.sqrt(2))
    assert delong_p(labels, *rank) == pytest.approx(p_value, rel=0.5, abs=0.003)


def test_one_in_twenty_equal_pairs_has_a_p_value_below_a_twentieth() -> None:
    below = sum(delong_p(*draw(120, seed)) < 0.05 for seed in range(600))
    assert below / 600 == pytest.approx(0.05, abs=0.027)  # three standard errors


def test_a_table_does_not_differ_from_itself() -> None:
    labels, first, _ = draw(50, 0)
    assert delong_p(labels, first, first) == 1
    assert delong_p(labels, first, first * 2 + 1) == 1  # the ranks are the same


def test_fewer_than_two_patches_of_a_label_give_no_p_value() -> None:
    for labels in ([0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 1, 1]):
        p = np.array([0.1, 0.2, 0.3, 0.4])
        assert math.isnan(delong_p(np.array(labels), p, p[::-1]))
