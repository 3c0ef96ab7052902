"""What tells one slide from another: a hash that is quick to compute, however large the file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from slidescan.errors import SlideError
from slidescan.slides.tiff_index import COUNTS, read_directories
from slidescan.tools.regular_files import MB, open_regular

FILE = "+file:"
"""Between the two parts of a fingerprint."""

ENDS_BYTES = MB

WHOLE_BYTES = 16 * MB
"""Files up to this size are hashed as a whole."""

SAMPLES, SAMPLE_BYTES = 64, 2**14
"""Of larger files so many parts are hashed, spread evenly from the first to the last byte."""

MANY_FILES = frozenset({"dicom", "mirax"})
"""OpenSlide's vendors whose slides are folders of files; `SUFFIXES` are of others."""
SUFFIXES = frozenset({".vms", ".vmu"})


def find_fingerprint(path: Path, recorded: Mapping[str, str]) -> str:
    """OpenSlide's quickhash, and a hash of the file.

    The quickhash covers the coarsest level and the metadata. The second hash covers a file of up to
    16 MB as a whole; of a larger one its size, the sizes of a TIFF's tiles, and 64 samples. A slide
    of several files has the quickhash alone. Where OpenSlide gives none, SHA-256 of the size and
    both ends takes its place.

    Raises SlideError where the file cannot be read.
    """
    try:
        return _found(path, recorded)
    except OSError as error:
        raise SlideError(f"{path}: cannot be read: {error.strerror or error}") from error


def _found(path: Path, recorded: Mapping[str, str]) -> str:
    quickhash = recorded.get("openslide.quickhash-1")
    first = f"quickhash-1:{quickhash}" if quickhash else f"sha256-ends:{_ends(path)}"
    several = recorded.get("openslide.vendor") in MANY_FILES or path.suffix.lower() in SUFFIXES
    return first if several else f"{first}{FILE}{_content(path)}"


def same_slide(one: str, other: str) -> bool:
    """Whether two fingerprints are of one slide; those of earlier versions have the first part.

    >>> same_slide("quickhash-1:ab+file:01", "quickhash-1:ab")
    True
    >>> same_slide("quickhash-1:ab+file:01", "quickhash-1:ab+file:02")
    False
    """
    both = covers_file(one) and covers_file(other)
    return one == other if both else same_quickhash(one, other)


def same_quickhash(one: str, other: str) -> bool:
    """Whether the first parts of two fingerprints are equal."""
    return one.partition(FILE)[0] == other.partition(FILE)[0]


def covers_file(fingerprint: str) -> bool:
    """Whether a fingerprint has the hash of the file, as all of single files have since 0.2."""
    return FILE in fingerprint


def _ends(path: Path) -> str:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        digest.update(file.read(ENDS_BYTES))
        file.seek(max(0, size - ENDS_BYTES))
        digest.update(file.read())
    return digest.hexdigest()


def _content(path: Path) -> str:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        if size <= WHOLE_BYTES:
            digest.update(file.read(WHOLE_BYTES))
            return digest.hexdigest()
        for sample in range(SAMPLES):
            file.seek((size - SAMPLE_BYTES) * sample // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    for directory in read_directories(path):
        if COUNTS in directory.tags:
            digest.update(directory.tags[COUNTS].tobytes())
    return digest.hexdigest()
