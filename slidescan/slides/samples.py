"""How a TIFF stores its samples, which OpenSlide does not say.

OpenSlide converts every TIFF to 8-bit RGBA. Samples of more bits, floating-point samples and
channels in separate planes come out as other pixels without an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slidescan.errors import SlideError
from slidescan.slides.tiff_index import (
    BITS,
    CHANNELS,
    DESCRIPTION,
    SAMPLE_FORMAT,
    Directory,
    read_directories,
)

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


def check_samples(path: Path, directories: Sequence[Directory]) -> None:
    """Refuse a TIFF whose samples OpenSlide does not show as they are.

    Raises SlideError.
    """
    found = find_samples(directories)
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


def plain_directories(path: Path, vendor: str | None) -> list[Directory]:
    """Read the directories of a plain TIFF; none of other files and where they cannot be read."""
    try:
        return read_directories(path) if vendor in CHECKED else []
    except OSError:
        return []  # OpenSlide has opened the file, and reading its pixels will show what is wrong


def find_samples(directories: Sequence[Directory]) -> Samples | None:
    """Describe the samples of a TIFF's first image; None where its tags cannot be read."""
    if not directories or BITS not in directories[0].tags:
        return None
    first = directories[0]
    bits = int(first.tags[BITS].max(initial=0))
    channels = first.number(CHANNELS, 1)
    planes = _ome_channels(first.text(DESCRIPTION)) if channels == 1 else 1
    kind = FORMATS.get(first.number(SAMPLE_FORMAT, 1), "unknown")
    return Samples(bits, kind, channels, planes)


def _ome_channels(description: str) -> int:
    """Channels of an OME-TIFF, 1 for other files."""
    found = re.search(r'\bSizeC="(\d{1,6})"', description) if "<OME" in description else None
    return int(found.group(1)) if found else 1
