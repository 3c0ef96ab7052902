"""Augmentation with albumentations; a patch's augmentation depends on its generator only."""

import os

import cv2

# albumentations looks for a newer version online when imported; slidescan opens no connection.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
# A patch is too small for several threads. Set at import, so that it holds in workers too.
cv2.setNumThreads(0)

from slidescan_train.augmentation.pipeline import (  # noqa: E402  (the switch must stand first)
    Augment,
    draws,
    preview,
    transforms,
)

__all__ = ["Augment", "draws", "preview", "transforms"]
