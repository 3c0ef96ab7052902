"""All augmentations of a patch, in order."""

from __future__ import annotations

import random

import albumentations as A  # noqa: N812  (its own idiom)
import numpy as np
from pydantic import ValidationError

from slidescan.errors import ConfigError, describe
from slidescan_train.augmentation.colour import Pixels
from slidescan_train.augmentation.steps import STEPS
from slidescan_train.recipe.augment_config import AugmentConfig, Draw, OneOf

FIRST = ("d4", "stain", "hed", "randstainna", "hue")
"""The augmentations before `one_of`, in order."""

ALWAYS = ("d4", "stain", "hue")
"""Those that take a random number even if they are off.

The others take none then, so a recipe without them draws what it drew before they existed.
"""


class Augment:
    """Applies all augmentations of `config` in order: those of `FIRST`, one of `one_of`, crop.

    None cuts the label region. None moves it by more than a few pixels, except long translations,
    which need a teacher. Not thread-safe: use one per thread.
    """

    def __init__(self, config: AugmentConfig) -> None:
        made, names = transforms(config), tuple(OneOf.model_fields)
        first = [(name, getattr(config, name).p) for name in FIRST]
        self._first = [(p, made[name]) for name, p in first if p > 0 or name in ALWAYS]
        self._crop_p, self._crop = config.crop.p, made["crop"]
        self._one_of = [made[name] for name in names]
        self._up_to = np.cumsum([getattr(config.one_of, name).p for name in names])

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """Return a patch, (96, 96, 3) RGB, augmented; `pixels` is not changed."""
        *first, one_of, crop = rng.random(len(self._first) + 2)
        for drawn, (p, transform) in zip(first, self._first, strict=True):
            if drawn < p:
                pixels = transform(pixels, rng)
        chosen = int(np.searchsorted(self._up_to, one_of, side="right"))
        if chosen < len(self._one_of):
            pixels = self._one_of[chosen](pixels, rng)
        if crop < self._crop_p:  # last, so that colour augmentations do not change the white
            pixels = self._crop(pixels, rng)
        return pixels


class Transform:
    """Applies albumentations in turn, which draw from a given generator."""

    def __init__(self, *steps: A.BasicTransform) -> None:
        self._steps = steps
        self._random = random.Random()

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        # Some draw from Python's generator. Seeding an albumentations Compose is 15 times slower.
        self._random.seed(int(rng.integers(2**63)))
        for step in self._steps:
            step.set_random_state(rng, self._random)
            pixels = step(image=pixels)["image"]
        return pixels


def draws(config: AugmentConfig) -> dict[str, Draw]:
    """Return the settings of every augmentation, by its name in the configuration, in order."""
    one_of = {name: getattr(config.one_of, name) for name in OneOf.model_fields}
    first = {name: getattr(config, name) for name in FIRST}
    return {**first, **one_of, "crop": config.crop}


def transforms(config: AugmentConfig) -> dict[str, Transform]:
    """Return every augmentation by its name; each is applied whenever it is called.

    Raises:
        ConfigError: albumentations refuses a range.
    """
    made = {}
    for name, draw in draws(config).items():
        try:
            made[name] = Transform(*(make(draw) for make in STEPS[name]))
        except ValueError as error:
            cause = error.__cause__
            why = describe(cause) if isinstance(cause, ValidationError) else str(error)
            raise ConfigError(f"augment: {name}: {why}") from error
    return made


def preview(
    pixels: Pixels, config: AugmentConfig, seed: int, columns: int = 4
) -> list[tuple[Pixels, str]]:
    """Return `columns` pictures of a patch for every augmentation, with its name and p.

    The first row is the patch itself and, beside it, all augmentations together.
    """
    rngs = [np.random.default_rng((seed, column)) for column in range(columns)]
    together = Augment(config)
    tiles = [(pixels, "original\n")]
    tiles += [(together(pixels, rng), "all together\nas configured") for rng in rngs[1:]]
    settings = draws(config)
    for name, transform in transforms(config).items():
        caption = f"{name}\np = {settings[name].p:g}"
        tiles += [(transform(pixels, rng), caption) for rng in rngs]
    return tiles
