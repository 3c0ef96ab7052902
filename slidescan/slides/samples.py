"""How a TIFF stores its samples, which OpenSlide does not say.

OpenSlide converts every TIFF to 8-bit RGBA. Samples of more bits, floating-point samples and
channels in separate planes come out as other pixels without an error.
"""

from __future__ import annotations

import re
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from slidescan.errors import SlideError

BITS, DESCRIPTION, CHANNELS, SAMPLE_FORMAT = 258, 270, 277, 339
"""Tags of TIFF 6.0, section 8 and 19."""

FORMATS = {1: "unsigned integer", 2: "signed integer", 3: "floating-point", 4: "undefined"}
"""Values of SampleFormat, TIFF 6.0, section 19."""

CHECKED = frozenset({"generic-tiff", "aperio"})
"""OpenSlide's vendors whose files are plain TIFF; other scanners write 8-bit RGB."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of a TIFF's first image."""

    bits: int
    """of the widest channel"""
    kind: str
    """as in `FORMATS`"""
    channels: int
    planes: int
    """images that an OME-TIFF has a channel in each of; 1 in other files"""


def check_samples(path: Path, vendor: str | None) -> None:
    """Refuse a TIFF whose samples OpenSlide does not show as they are.

    Raises SlideError.
    """
    found = read_samples(path) if vendor in CHECKED else None
    if found is None:
        return
    if (found.bits, found.kind) != (8, FORMATS[1]):
        raise SlideError(
            f"{path}: has {found.bits}-bit {found.kind} samples, slidescan reads brightfield "
            "slides of 8 bits a channel; convert the slide to 8-bit RGB"
        )
    if found.planes > 1:
        raise SlideError(
            f"{path}: an OME-TIFF with its {found.planes} channels in separate planes, of which "
            "only the first can be read; convert the slide to interleaved RGB"
        )


def read_samples(path: Path) -> Samples | None:
    """Read the tags of a TIFF's first image; None where it is no TIFF or they cannot be read."""
    try:
        tags = _first_directory(path)
        if tags is None or BITS not in tags:
            return None
        bits, kind = tags[BITS], tags.get(SAMPLE_FORMAT, (1,))
        channels = int(tags.get(CHANNELS, 1))
        planes = _ome_channels(str(tags.get(DESCRIPTION, ""))) if channels == 1 else 1
        return Samples(max(bits), FORMATS.get(max(kind), "unknown"), channels, planes)
    except (OSError, ValueError, TypeError, LookupError, SyntaxError, struct.error):
        return None  # OpenSlide has opened the file, and reading its pixels will show what is wrong


def _first_directory(path: Path) -> ImageFileDirectory_v2 | None:
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged tags
        header = file.read(8)
        if header[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return None
        if 43 in header[2:4]:  # BigTIFF
            header += file.read(8)
        tags = ImageFileDirectory_v2(header)
        file.seek(tags.next)
        tags.load(file)
        return tags


def _ome_channels(description: str) -> int:
    """Channels of an OME-TIFF, 1 for other files."""
    found = re.search(r'\bSizeC="(\d{1,6})"', description) if "<OME" in description else None
    return int(found.group(1)) if found else 1
