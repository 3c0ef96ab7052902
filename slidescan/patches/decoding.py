"""Decode patches from image files: RGB of 96 x 96 px, or the reason why there is none."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from slidescan.geometry import PATCH_PX
from slidescan.tools.regular_files import MB, TOO_MANY_FILES, read_regular

SHAPE = (PATCH_PX, PATCH_PX, 3)
IMAGES = (".tif", ".tiff", ".png", ".webp", ".jpg", ".jpeg", ".bmp")
"""Endings of image files, in lower case."""

FORMATS = ("TIFF", "PNG", "WEBP", "JPEG", "BMP")
"""Pillow's names of these formats. Without them it would try all that it knows, and hand a file of
PostScript, whatever its name, to Ghostscript."""

MOST_BYTES = 16 * MB
"""An uncompressed patch has 28 kB; the rest is room for metadata."""

Patch = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Bad:
    """The reason why a patch has no pixels."""

    detail: str
    kind: Literal["unreadable", "size"] = "unreadable"

    def __str__(self) -> str:
        return self.detail


def read_patch(path: str | Path) -> Patch | Bad:
    """Read a file: (96, 96, 3) RGB, or the reason why not."""
    try:
        # The whole file at once: Pillow reads in many small steps, which is three times slower.
        return decode(read_regular(path, MOST_BYTES))
    except FileNotFoundError:
        return Bad("no such file")
    except OSError as error:
        if error.errno in TOO_MANY_FILES:  # says nothing of this one
            raise
        return Bad(f"cannot be read: {told(error)}")


def decode(content: bytes) -> Patch | Bad:
    """Decode an image: (96, 96, 3) RGB, turned as its EXIF data say, or the reason why not."""
    if not content:
        return Bad("is an empty file")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return _bad(image) or _rgb(image)
    except MemoryError:  # the size was checked, so it is not the image's fault
        raise
    # Pillow's decoders raise many kinds of errors for damaged files.
    except Exception as error:
        return Bad(f"not a readable image: {told(error)}")


def _bad(image: Image.Image) -> Bad | None:
    """Why an open image is no patch, by what its header says."""
    if image.size != (PATCH_PX, PATCH_PX):
        size = f"{image.width} x {image.height}"
        return Bad(f"is {size} px, a patch has {PATCH_PX} x {PATCH_PX}", "size")
    if image.mode not in ("RGB", "RGBA", "L", "P"):
        return Bad(f"holds {image.mode} pixels, not 8-bit RGB")
    try:
        image.seek(1)
    except EOFError:
        return None
    return Bad("holds several images (pages); a patch is one, in RGB")


def _rgb(image: Image.Image) -> Patch | Bad:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            return Bad("has transparent pixels, of which the colour is unknown")
    if "exif" in image.info:  # Pillow turns TIFFs by itself
        image = ImageOps.exif_transpose(image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def told(error: Exception) -> str:
    """Put an error into one line."""
    # Pillow's message contains the buffer and its address.
    return re.sub(" <.*? at 0x[0-9a-f]+>", "", " ".join(str(error).split())) or type(error).__name__
