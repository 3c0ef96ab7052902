"""A small data set in Kaggle's layout whose label is plain to see: a dark or a bright centre."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from slidescan_train.data import Patches

from slidescan.geometry import LABEL_PX, PATCH_PX

CENTRE = slice((PATCH_PX - LABEL_PX) // 2, (PATCH_PX + LABEL_PX) // 2)


def make(count: int, seed: int = 0) -> Patches:
    """Noise; the central 32 x 32 px are dark where the label is 1. Ids as Kaggle's: SHA-1."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = rng.integers(0, 256, (count, PATCH_PX, PATCH_PX, 3), np.uint8)
    centre = pixels[:, CENTRE, CENTRE]
    centre[:] = np.where(labels[:, None, None, None] == 1, centre // 2, 128 + centre // 2)
    ids = tuple(hashlib.sha1(patch.tobytes()).hexdigest() for patch in pixels)
    return Patches(ids, pixels, labels)


def write(folder: Path, patches: Patches) -> Path:
    """Lay `patches` out in `folder` and return it."""
    (folder / "train").mkdir(parents=True)
    for patch_id, pixels in zip(patches.ids, patches.pixels, strict=True):
        save_patch(folder, patch_id, pixels)
    write_labels(folder, zip(patches.ids, patches.labels.tolist(), strict=True))
    return folder


def save_patch(folder: Path, patch_id: str, pixels: NDArray[np.uint8]) -> Path:
    path = folder / "train" / f"{patch_id}.tif"
    Image.fromarray(pixels).save(path)
    return path


def write_labels(folder: Path, rows: object, header: tuple[str, ...] = ("id", "label")) -> None:
    with (folder / "train_labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])  # type: ignore[misc]
