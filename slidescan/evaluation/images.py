"""Patches by their id, from a folder of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidescan.errors import DataError
from slidescan.patches.decoding import IMAGES

FOLDERS = (".", "train", "test", "0", "1")
"""As they are, in Kaggle's layout, and a folder for each class."""


def read_images(folder: Path, ids: Sequence[str]) -> tuple[dict[str, NDArray[np.uint8]], list[str]]:
    """RGB (H, W, 3) of the ids that `folder` has an image of, and the ids that it has none of.

    Raises `DataError` where it has none at all, one cannot be read, or sizes differ.
    """
    paths = {i: path for i in ids if (path := _find(folder, i))}
    if ids and not paths:
        raise DataError(
            f"{folder}: has no image of {len(ids)} patches, e.g. {ids[0]}.tif, nor has its train "
            "or test folder; correct --images"
        )
    found = {patch_id: _read(path) for patch_id, path in paths.items()}
    shapes = {pixels.shape for pixels in found.values()}
    if len(shapes) > 1:
        raise DataError(f"{folder}: its images are not of one size: {sorted(shapes)}")
    return found, [i for i in ids if i not in paths]


def _find(folder: Path, patch_id: str) -> Path | None:
    for place in FOLDERS:
        for suffix in IMAGES:
            path = folder / place / f"{patch_id}{suffix}"
            if path.is_file():
                return path
    return None


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image: {error}") from error
