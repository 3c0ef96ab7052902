"""HED jitter and RandStainNA: what they do to the colours of a patch."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("slidescan_train.augmentation")
from slidescan_train.augmentation import Augment, transforms
from slidescan_train.augmentation.colour import STRETCH
from slidescan_train.recipe.augment_config import AugmentConfig

Pixels = NDArray[np.uint8]
EVERY_VALUE = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)


def tissue(seed: int = 0) -> Pixels:
    """Pink and purple, at random for each pixel."""
    stain = np.random.default_rng(seed).random((96, 96, 1))
    return (stain * [225, 150, 190] + (1 - stain) * [95, 60, 130]).astype(np.uint8)


def one(name: str, **settings: object) -> Callable[[Pixels, int], Pixels]:
    config = AugmentConfig.model_validate({name: {"p": 0, **settings}})
    return lambda pixels, seed: transforms(config)[name](pixels, np.random.default_rng(seed))


def statistics(pixels: Pixels) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of L, a and b."""
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    return lab.mean(axis=0).tolist(), lab.std(axis=0).tolist()


def template(pixels: Pixels, **settings: object) -> dict[str, object]:
    """The statistics of `pixels`, without a spread."""
    means, spreads = statistics(pixels)
    none = {"means_sd": (0, 0, 0), "spreads_sd": (0, 0, 0)}
    return {"means": means, "spreads": spreads, **none, **settings}


# --- HED jitter ---------------------------------------------------------------------------------


def test_hed_jitter_without_strength_changes_nothing() -> None:
    np.testing.assert_array_equal(one("hed", sigma=0)(EVERY_VALUE, 0), EVERY_VALUE)


def test_hed_jitter_is_the_published_one() -> None:
    """Equations 5 to 7 of Tellez et al. 2018, as the code of Gao et al. 2023 has them."""
    stains = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    pixels = np.maximum(tissue(), 1)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rng.integers(2**63)  # seeds Python's generator
        alpha, beta = rng.uniform(-0.1, 0.1, (2, 3))
        amounts = -np.log(pixels.astype(float)) @ np.linalg.inv(stains) * (1 + alpha) + beta
        expected = np.exp(-amounts @ stains).clip(0, 255)
        assert np.abs(one("hed")(pixels, seed) - expected).max() <= 0.51


def test_hed_jitter_changes_as_much_as_sigma_says_either_way() -> None:
    pixels = tissue()
    sizes = []
    for sigma in (0.02, 0.05, 0.1):
        shifts = np.array(
            [
                one("hed", sigma=sigma)(pixels, seed).mean(axis=(0, 1)) - pixels.mean(axis=(0, 1))
                for seed in range(60)
            ]
        )
        assert (shifts.min(axis=0) < 0).all()
        assert (shifts.max(axis=0) > 0).all()
        # The mean of many is that of the patch, but for the curve of the exponential and white.
        assert np.abs(shifts.mean(axis=0)).max() < 0.4 * np.abs(shifts).mean()
        sizes.append(np.abs(shifts).mean())
    assert 1.7 < sizes[1] / sizes[0] < 2.7
    assert 1.4 < sizes[2] / sizes[1] < 2.2


def test_hed_jitter_tints_glass() -> None:
    glass = np.full((96, 96, 3), 240, np.uint8)
    tints = {tuple(one("hed")(glass, seed)[0, 0].tolist()) for seed in range(20)}
    assert len(tints) > 5


# --- RandStainNA --------------------------------------------------------------------------------


def test_randstainna_without_strength_changes_nothing() -> None:
    changed = one("randstainna", strength=0)(EVERY_VALUE, 0).astype(int)
    assert np.abs(changed - EVERY_VALUE).max() <= 1  # to CIELAB and back


def test_a_patch_that_has_the_templates_statistics_stays() -> None:
    pixels = tissue()
    changed = one("randstainna", **template(pixels))(pixels, 0).astype(int)
    assert np.abs(changed - pixels).max() <= 1


def test_randstainna_gives_a_patch_the_templates_statistics() -> None:
    pixels = tissue()
    means, spreads = statistics(pixels)
    wanted = [means[0] - 5, means[1] + 4, means[2] + 3], [0.8 * s for s in spreads]
    settings = template(pixels, means=wanted[0], spreads=wanted[1])
    np.testing.assert_allclose(
        statistics(one("randstainna", **settings)(pixels, 0)), wanted, atol=0.2
    )
    half = [(m + w) / 2 for m, w in zip(means, wanted[0], strict=True)]
    found = statistics(one("randstainna", **settings, strength=0.5)(pixels, 0))[0]
    np.testing.assert_allclose(found, half, atol=0.2)


def test_templates_vary_as_configured_and_within_two_standard_deviations() -> None:
    pixels = tissue()
    settings = template(pixels, means_sd=(2, 3, 4))
    transform = one("randstainna", **settings)
    found = np.array([statistics(transform(pixels, seed))[0] for seed in range(300)])
    shifts = found - statistics(pixels)[0]
    assert np.abs(shifts).max(axis=0) == pytest.approx([4, 6, 8], abs=0.3)
    assert np.abs(shifts.mean(axis=0)).max() < 0.6
    assert shifts.std(axis=0) == pytest.approx([1.95, 2.9, 3.85], rel=0.12)


def test_randstainna_enlarges_the_noise_of_glass_by_the_limit_at_most() -> None:
    glass = np.random.default_rng(0).normal(225, 2, (96, 96, 3)).astype(np.uint8)
    own = np.array(statistics(glass)[1])
    for seed in range(20):
        changed = np.array(statistics(one("randstainna", means=(60, 0, 0))(glass, seed))[1])
        assert (changed < STRETCH * own + 0.3).all()


# --- both ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hed", "randstainna"])
def test_both_are_drawn_as_often_as_configured_and_never_by_default(name: str) -> None:
    others = {other: {"p": 0} for other in ("d4", "stain", "hue", "crop")}
    pixels = tissue()

    def changed(p: float) -> float:
        settings: dict[str, object] = {**others, "one_of": {}, name: {"p": p}}
        augment = Augment(AugmentConfig.model_validate(settings))
        results = [augment(pixels, np.random.default_rng(seed)) for seed in range(200)]
        return sum(not np.array_equal(result, pixels) for result in results) / 200

    assert getattr(AugmentConfig(), name).p == changed(0) == 0
    assert changed(0.4) == pytest.approx(0.4, abs=0.09)


def test_an_augmentation_that_is_off_leaves_the_draws_of_the_others_alone() -> None:
    others = {other: {"p": 0} for other in ("d4", "stain", "hue")}
    augment = Augment(AugmentConfig.model_validate({**others, "one_of": {}, "crop": {"p": 1}}))
    rng = np.random.default_rng(3)
    rng.random(5)  # d4, stain, hue, one_of, crop: as before HED jitter and RandStainNA existed
    expected = transforms(AugmentConfig())["crop"](tissue(), rng)
    np.testing.assert_array_equal(augment(tissue(), np.random.default_rng(3)), expected)
