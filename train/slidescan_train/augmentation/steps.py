"""The steps of each augmentation: transforms of albumentations with the configured ranges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import albumentations as A  # noqa: N812  (its own idiom)
import cv2

from slidescan_train.augmentation.colour import HEDJitter, HEStain, KrizhevskyPCA, RandStainNA
from slidescan_train.augmentation.geometry import D4, CutEdges
from slidescan_train.recipe.augment_config import (
    Blur,
    Brightness,
    Contrast,
    GaussNoise,
    Hue,
    MotionBlur,
    Rotation,
    Stain,
    Translation,
)


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
        "hed": (lambda draw: HEDJitter(draw.sigma),),
        "randstainna": (RandStainNA,),
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
