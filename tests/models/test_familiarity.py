"""Warnings of input that is unlike the patches of training."""

from __future__ import annotations

import numpy as np
import pytest
import slides
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from slidescan.models import familiarity
from slidescan.models.card import Card, read_card, shipped_names
from slidescan.models.reference import Reference

Pixels = NDArray[np.uint8]


def tissue(count: int, seed: int = 0) -> Pixels:
    """Patches of nuclei in eosin, with the noise of a camera."""
    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.normal(size=(count, 96, 96)), (0, 2, 2))
    nuclei = (noise > 0.05)[..., None]
    haematoxylin, eosin = np.array([0.8, 1.0, 0.5]), np.array([0.1, 0.4, 0.2])
    strength = rng.uniform(0.8, 1.2, (count, 1, 1, 1))
    density = strength * np.where(nuclei, haematoxylin, eosin)
    pixels = 255 * np.exp(-density) + rng.normal(0, 4, (count, 96, 96, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def reference() -> Reference:
    found = familiarity.summarise(familiarity.measure(tissue(200)))
    assert found is not None
    return found


def judged(pixels: Pixels, reference: Reference) -> familiarity.Finding:
    found = familiarity.judge(pixels, [None, reference])
    assert found is not None
    return found


def test_patches_like_those_of_training_score_below_one(reference: Reference) -> None:
    found = judged(tissue(64, seed=1), reference)
    assert found.score < 0.5
    assert not found.unlike
    assert found.patches == 64


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (lambda p: p[..., ::-1], "colours"),
        (lambda p: p[..., [1, 0, 2]], "colours"),
        (lambda p: np.repeat(p[..., 1:2], 3, axis=-1), "colours"),
        (lambda p: 255 - p, "colours"),
        (lambda p: gaussian_filter(p, (0, 2, 2, 0)), "sharpness"),
        (lambda p: p.repeat(2, axis=1).repeat(2, axis=2), "sharpness"),
        (lambda p: p[:, ::2, ::2], "resolution"),
    ],
    ids=["BGR", "GRB", "grey", "inverted", "blur", "finer", "coarser"],
)
def test_changed_patches_are_told_with_what_is_unlike(
    changed: object, what: str, reference: Reference
) -> None:
    assert callable(changed)
    found = judged(np.ascontiguousarray(changed(tissue(64, seed=1))), reference)
    assert found.unlike
    assert f"unlike the training patches in {what} (" in found.warning()
    assert f"score {found.score:.2f} from 64 patches" in found.warning()


def test_the_strength_of_the_stain_is_no_reason(reference: Reference) -> None:
    pale = 255 * (tissue(64, seed=1) / 255) ** 0.7
    assert not judged(pale.astype(np.uint8), reference).unlike


def test_the_worst_of_several_models_counts(reference: Reference) -> None:
    pixels = tissue(64, seed=1)
    green = reference.green.model_copy(update={"mean": reference.green.mean + 1})
    other = reference.model_copy(update={"green": green})
    assert judged(pixels, other).score > judged(pixels, reference).score
    both = familiarity.judge(pixels, [reference, other])
    assert both == judged(pixels, other)


def test_too_little_tissue_has_no_score(reference: Reference) -> None:
    glass = np.full((100, 96, 96, 3), 245, np.uint8)
    assert familiarity.measure(glass).shape == (0, 4)
    few = np.concatenate([glass, tissue(familiarity.LEAST - 1)])
    assert familiarity.judge(few, [reference]) is None
    assert familiarity.summarise(familiarity.measure(few)) is None
    enough = np.concatenate([glass, tissue(familiarity.LEAST)])
    assert familiarity.judge(enough, [reference]) is not None
    assert familiarity.judge(enough, [None]) is None


def test_a_patch_of_one_colour_has_finite_figures() -> None:
    for value in (0, 128, 200):
        figures = familiarity.measure(np.full((1, 96, 96, 3), value, np.uint8))
        assert np.isfinite(figures).all()


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_models_know_their_training_patches(name: str) -> None:
    card = read_card(name)
    assert card.reference is not None
    assert card.reference.patches >= 1000
    assert Card.model_validate_json(card.model_dump_json()) == card
    blue = slides.section(96 * 8, 96 * 8)[..., ::-1]
    cut = blue.reshape(8, 96, 8, 96, 3).swapaxes(1, 2).reshape(-1, 96, 96, 3)
    found = familiarity.judge(cut, [card.reference])
    assert found is None or found.unlike
