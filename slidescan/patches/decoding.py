"""Patches from image files: RGB of 96 x 96 px, or why not."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidescan.geometry import PATCH_PX

SHAPE = (PATCH_PX, PATCH_PX, 3)
IMAGES = (".tif", ".tiff", ".png", ".webp", ".jpg", ".jpeg", ".bmp")
"""Endings of files that are taken for images, in lower case."""

Patch = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Bad:
    """Why there are no pixels."""

    detail: str
    kind: Literal["unreadable", "size"] = "unreadable"

    def __str__(self) -> str:
        return self.detail


def read_patch(path: str | Path) -> Patch | Bad:
    """(96, 96, 3) RGB of a file, or why not."""
    try:
        # At once: Pillow reads a file in many small steps, three times slower.
        with open(path, "rb") as file:
            return decode(file.read())
    except FileNotFoundError:
        return Bad("no such file")
    except OSError as error:
        return Bad(f"cannot be read: {told(error)}")


def decode(content: bytes) -> Patch | Bad:
    """(96, 96, 3) RGB of an encoded image, or why not."""
    if not content:
        return Bad("is an empty file")
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.size != (PATCH_PX, PATCH_PX):
                size = f"{image.width} x {image.height}"
                return Bad(f"is {size} px, a patch has {PATCH_PX} x {PATCH_PX}", "size")
            if image.mode not in ("RGB", "RGBA", "L", "P"):
                return Bad(f"holds {image.mode} pixels, not 8-bit RGB")
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    # Pillow's decoders raise errors of every kind at damaged files.
    except Exception as error:
        return Bad(f"not a readable image: {told(error)}")


def told(error: Exception) -> str:
    """An error in one line."""
    # Pillow names the buffer, and its address.
    return re.sub(" <.*? at 0x[0-9a-f]+>", "", " ".join(str(error).split())) or type(error).__name__
