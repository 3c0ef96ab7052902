"""Read images of patches by their ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidescan.errors import DataError
from slidescan.patches.decoding import FORMATS, IMAGES

FOLDERS = (".", "train", "test", "0", "1")
"""Where images are looked for: the folder itself, Kaggle's layout, a folder for each class."""

MOST_PX = 4096
"""Side of the largest image that is decoded."""


def read_images(folder: Path, ids: Sequence[str]) -> tuple[dict[str, NDArray[np.uint8]], list[str]]:
    """Return RGB (H, W, 3) of the ids with an image in `folder`, and the ids without.

    Raises `DataError`: no image at all, one that cannot be read, or different sizes.
    """
    paths = {i: path for i in ids if (path := _find(folder, i))}
    if ids and not paths:
        raise DataError(
            f"{folder}: neither the folder nor its train or test folder has an image of these "
            f"{len(ids)} patches, e.g. {ids[0]}.tif; correct --images"
        )
    found = {patch_id: _read(path) for patch_id, path in paths.items()}
    shapes = {pixels.shape for pixels in found.values()}
    if len(shapes) > 1:
        raise DataError(
            f"{folder}: images of different sizes, {_sizes(shapes)}; patches have one size"
        )
    return found, [i for i in ids if i not in paths]


def _sizes(shapes: Iterable[tuple[int, ...]]) -> str:
    return " and ".join(f"{width} x {height} px" for height, width, *_ in sorted(shapes)[:2])


def _find(folder: Path, patch_id: str) -> Path | None:
    for place in FOLDERS:
        for suffix in IMAGES:
            path = folder / place / f"{patch_id}{suffix}"
            if path.is_file():
                return path
    return None


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            if max(image.size) > MOST_PX:
                raise DataError(
                    f"{path}: {image.width} x {image.height} px; a patch has at most {MOST_PX} "
                    "a side"
                )
            return np.asarray(image.convert("RGB"))
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: not an image that can be read; replace it or leave it out"
        ) from error
