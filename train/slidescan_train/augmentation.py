"""Augmentation with albumentations; a patch's augmentation depends on its generator only."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

# albumentations looks for a newer version online when imported; slidescan opens no connection.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
import albumentations as A  # noqa: N812  (the switch above must stand first; A is its own idiom)
import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from slidescan.errors import ConfigError, describe
from slidescan.geometry import PATCH_PX
from slidescan.protocols import WHITE
from slidescan_train.recipe.config import (
    AugmentConfig,
    Blur,
    Brightness,
    Contrast,
    Draw,
    GaussNoise,
    Hue,
    MotionBlur,
    OneOf,
    Rotation,
    Stain,
    Translation,
)

# A patch is too small for several threads. Set at import, so that it holds in workers too.
cv2.setNumThreads(0)

Pixels = NDArray[np.uint8]

FIRST = ("d4", "stain", "hue")
"""The augmentations before `one_of`, in order."""


class Augment:
    """Applies all augmentations of `config` in order: D4, stain, hue, one of `one_of`, crop.

    None cuts the label region. None moves it by more than a few pixels, except long translations,
    which need a teacher. Not thread-safe: use one per thread.
    """

    def __init__(self, config: AugmentConfig) -> None:
        made, names = transforms(config), tuple(OneOf.model_fields)
        self._first = [(getattr(config, name).p, made[name]) for name in FIRST]
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


class D4(A.D4):  # type: ignore[misc]  # albumentations ships no types
    """The eight symmetries of the square with OpenCV, ten times faster than the library's own."""

    def apply(self, img: Pixels, group_element: str, **_: Any) -> Pixels:
        return np.asarray(SYMMETRIES[group_element](img))


SYMMETRIES: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "e": lambda img: img,
        "r90": lambda img: cv2.rotate(img, cv2.ROTATE_90_COUNTERCLOCKWISE),
        "r180": lambda img: cv2.rotate(img, cv2.ROTATE_180),
        "r270": lambda img: cv2.rotate(img, cv2.ROTATE_90_CLOCKWISE),
        "v": lambda img: cv2.flip(img, 0),
        "h": lambda img: cv2.flip(img, 1),
        "t": cv2.transpose,
        "hvt": lambda img: cv2.rotate(cv2.transpose(img), cv2.ROTATE_180),
    }
)
"""By the library's names for them."""


class HEStain(A.HEStain):  # type: ignore[misc]  # albumentations ships no types
    """Stain augmentation: changes haematoxylin and eosin separately, by a published stain matrix.

    Tellez et al. 2018, https://doi.org/10.1109/TMI.2018.2820199. The library's own version drops
    what the two stains do not explain: even without jitter it changes a patch of PatchCamelyon by 9
    of 255 on average. This version keeps the rest, so that no jitter means no change, and it does
    not shift glass.
    """

    def apply(
        self,
        img: Pixels,
        stain_matrix: NDArray[np.float64],
        scale_factors: NDArray[np.float64],
        shift_values: NDArray[np.float64],
        **_: Any,
    ) -> Pixels:
        density = cv2.LUT(img, DENSITY)
        # A pixel's densities are M.T @ its concentrations; those are pinv(M.T) @ the densities.
        to_stains = np.linalg.solve(stain_matrix @ stain_matrix.T, stain_matrix)
        change = stain_matrix.T @ np.diag(scale_factors - 1) @ to_stains
        scaled = cv2.transform(density, np.eye(3) + change)
        stained = cv2.transform(density, STAINED)
        stained = cv2.threshold(stained, 1, 0, cv2.THRESH_TRUNC)[1]
        stained = cv2.threshold(stained, 0, 0, cv2.THRESH_TOZERO)[1]
        shift = cv2.transform(stained, stain_matrix.T @ shift_values[:, None])
        return np.asarray(cv2.convertScaleAbs(cv2.exp(-cv2.add(scaled, shift)), alpha=255))


DENSITY = -np.log(np.maximum(np.arange(256, dtype=np.float32), 1) / 255)
"""Optical density of each pixel value; 0 is treated as 1."""

STAINED = np.array([[5 / 3, 5 / 3, 5 / 3, -0.5]])
"""Share of the shift applied to a pixel: 0 up to a mean density of 0.1, 1 from 0.3 on."""


class KrizhevskyPCA(A.FancyPCA):  # type: ignore[misc]  # albumentations ships no types
    """Colour shift along the principal axes of the patch's colours (Krizhevsky et al. 2012, 4.1).

    The shift along each axis is normal, with a share `alpha` of the colours' standard deviation.
    The library's own version multiplies by variances of values in [0, 1]: at the usual alpha of 0.1
    it changes a patch of PatchCamelyon by 0.1 of 255 on average, which rounding removes. (The paper
    says variance as well, but not the unit of the values.)
    """

    def apply(self, img: Pixels, alpha_vector: NDArray[np.float64], **_: Any) -> Pixels:
        # Sums of integers in float64 are exact, whatever the number of BLAS threads.
        colours = img.reshape(-1, 3).astype(np.float64)
        mean = np.array(cv2.mean(img)[:3])
        covariance = colours.T @ colours / len(colours) - np.outer(mean, mean)
        variances, axes = np.linalg.eigh(covariance)
        shift = axes @ (alpha_vector * np.sqrt(np.maximum(variances, 0)))
        return np.asarray(cv2.add(img, np.append(shift, 0)))  # rounded and clipped


class CutEdges(A.ImageOnlyTransform):  # type: ignore[misc]  # albumentations ships no types
    """Cuts off edges and fills them with white: a random choice of one to four edges."""

    def __init__(self, most_px: int, p: float = 1) -> None:
        super().__init__(p=p)
        self.most_px = most_px

    def get_params(self) -> dict[str, Any]:
        edges = self.py_random.randrange(1, 16)
        return {
            "widths": [edges >> i & 1 and self.py_random.randint(1, self.most_px) for i in range(4)]
        }

    def apply(self, img: Pixels, widths: list[int], **_: Any) -> Pixels:
        top, bottom, left, right = widths
        cut = np.full_like(img, WHITE)
        kept = slice(top, PATCH_PX - bottom), slice(left, PATCH_PX - right)
        cut[kept] = img[kept]
        return cut


def _stain(draw: Stain) -> A.BasicTransform:
    return HEStain(
        method="random_preset",
        intensity_scale_range=(1 - draw.scale, 1 + draw.scale),
        intensity_shift_range=(-draw.shift, draw.shift),
        p=1,
    )


def _hue(draw: Hue) -> A.BasicTransform:
    return _jitter(
        hue=(-draw.turn, draw.turn), saturation=(1 - draw.saturation, 1 + draw.saturation)
    )


def _blur(draw: Blur) -> A.BasicTransform:
    return A.GaussianBlur(blur_limit=0, sigma_limit=draw.sigma_px, p=1)


def _rotation(draw: Rotation) -> A.BasicTransform:
    return A.Rotate(limit=draw.degrees, border_mode=cv2.BORDER_REFLECT_101, p=1)


def _translation(draw: Translation) -> A.BasicTransform:
    span = (-draw.px, draw.px)  # integers give whole pixels
    return A.Affine(translate_px={"x": span, "y": span}, border_mode=cv2.BORDER_REFLECT_101, p=1)


def _jitter(**ranges: tuple[float, float]) -> A.BasicTransform:
    same = dict.fromkeys(("brightness", "contrast", "saturation"), (1.0, 1.0))
    return A.ColorJitter(**{**same, "hue": (0.0, 0.0), **ranges}, p=1)


def _brightness(draw: Brightness) -> A.BasicTransform:
    return A.RandomBrightnessContrast(brightness_limit=draw.brightness, contrast_limit=0, p=1)


def _contrast(draw: Contrast) -> A.BasicTransform:
    # Around the patch's mean. RandomBrightnessContrast scales around black: a brightness change.
    return _jitter(contrast=(1 - draw.contrast, 1 + draw.contrast))


def _noise(draw: GaussNoise) -> A.BasicTransform:
    return A.GaussNoise(std_range=draw.std, p=1)


def _motion(draw: MotionBlur) -> A.BasicTransform:
    # Symmetric, because a shifted line would move the label region.
    return A.MotionBlur(blur_limit=draw.length_px, allow_shifted=False, direction_range=(0, 0), p=1)


STEPS: Mapping[str, tuple[Callable[[Any], A.BasicTransform], ...]] = MappingProxyType(
    {
        "d4": (lambda draw: D4(p=1),),
        "stain": (_stain,),
        "hue": (_hue,),
        "blur": (_blur,),
        "rotation": (_rotation,),
        "translation": (_translation,),
        "fancy_pca": (lambda draw: KrizhevskyPCA(alpha=draw.alpha, p=1),),
        "brightness": (_brightness,),
        "saturation": (lambda draw: _jitter(saturation=(1, 1 + draw.saturation)),),
        "motion_blur": (_motion,),
        "contrast": (_contrast,),
        "gauss_noise": (_noise,),
        "contrast_blur": (_contrast, _blur),
        "contrast_brightness": (_contrast, _brightness),
        "brightness_blur": (_brightness, _blur),
        "brightness_noise": (_brightness, _noise),
        "jpeg": (lambda draw: A.ImageCompression(quality_range=draw.quality, p=1),),
        "crop": (lambda draw: CutEdges(draw.most_px),),
    }
)
"""The steps of each augmentation, by its name in the configuration."""
