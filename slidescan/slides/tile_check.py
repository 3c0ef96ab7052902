"""Tiles whose data look damaged although they decode: OpenSlide passes no decoder's warning on.

Found: data that are zeros alone, deflate data that do not match their checksum, and JPEG and JPEG
2000 data whose markers cannot be or that hold a run of zeros (`tile_data`). Not found: changed bits
that give other valid codes.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.geometry import Box
from slidescan.slides.pixels import copy_on_white
from slidescan.slides.tiff_index import (
    BITS,
    CHANNELS,
    COMPRESSION,
    COUNTS,
    FILL_ORDER,
    OFFSETS,
    PHOTOMETRIC,
    PLANAR,
    PREDICTOR,
    TABLES,
    Directory,
)
from slidescan.slides.tile_data import deflate_fault, jpeg2000_fault, jpeg_fault

MOST_BYTES = 16 * 2**20
"""Of the data of a tile that is looked at."""
MOST_DECODED_BYTES = 64 * 2**20
"""Of a tile's pixels that are decoded once more: a tile of 4096 x 4096 px."""

RGB, DIFFERENCES = 2, 2
"""Values of PhotometricInterpretation and Predictor, TIFF 6.0."""

GLASS = 200
"""A block of one colour whose darkest channel is at least this may be glass."""
BLACK = 8
"""A block that is darker was not imaged."""


Pixels = NDArray[np.uint8]
"""Of a tile as OpenSlide gives it, (h, w, 4): blue, green, red and alpha."""


def _jpeg(level: Directory, content: bytes, _: Pixels | None) -> str | None:
    tables = level.tags.get(TABLES)
    return jpeg_fault(content, b"" if tables is None else tables.tobytes())


def _jpeg2000(_: Directory, content: bytes, __: Pixels | None) -> str | None:
    return jpeg2000_fault(content)


def _deflate(level: Directory, content: bytes, pixels: Pixels | None) -> str | None:
    assert level.tile_px is not None
    # What OpenSlide has decoded need not be decoded again, which would take a tenth of a scan.
    if pixels is not None and _sum_of(level, pixels) == content[-4:]:
        return None
    bits = level.number(CHANNELS, 1) * level.number(BITS, 1)
    size = -(-math.prod(level.tile_px) * bits // 8)
    # With another order the bits of each byte are reversed.
    if not 0 < size <= MOST_DECODED_BYTES or level.number(FILL_ORDER, 1) != 1:
        return None
    return deflate_fault(content, size)


def _sum_of(level: Directory, pixels: Pixels) -> bytes | None:
    """The checksum of what gave a tile's pixels when it was inflated; None where it is unknown."""
    predictor = level.number(PREDICTOR, 1)
    kind = level.number(PHOTOMETRIC), level.number(CHANNELS, 1), level.number(BITS, 1)
    if kind != (RGB, 3, 8) or predictor not in (1, DIFFERENCES):
        return None
    rgb = np.empty((*pixels.shape[:2], 3), np.uint8)
    if not copy_on_white(pixels, rgb):
        return None
    if predictor == DIFFERENCES:
        rgb[:, 1:] -= rgb[:, :-1].copy()
    return zlib.adler32(rgb.data).to_bytes(4, "big")


FAULTS: Mapping[int, Callable[[Directory, bytes, Pixels | None], str | None]] = {
    7: _jpeg,  # TIFF Technical Note 2
    8: _deflate,
    32946: _deflate,  # the number before Adobe registered 8
    33003: _jpeg2000,  # Aperio, YCbCr
    33005: _jpeg2000,  # Aperio, RGB
}
"""What looks at the data of a tile, by TIFF's number of the compression."""


class TileCheck:
    """Checks the data of the tiles of one TIFF. Safe to call from several threads."""

    def __init__(self, path: Path, directories: Sequence[Directory]) -> None:
        self._file = _File(path)
        self._levels = {
            each.shape_px: _Level(each, bytearray(_tiles(each)))
            for each in reversed(directories)  # of equal images OpenSlide takes the first
            if each.tile_px and each.number(PLANAR, 1) == 1 and _fits(each)
        }

    def reason(self, shape_px: tuple[int, int], block: Box, pixels: Pixels) -> str | None:
        """Why the data of a block look damaged; None where they do not.

        `shape_px` is that of its level, by which it is found, `block` in pixels of the level,
        `pixels` what OpenSlide read of it.
        """
        level = self._levels.get(shape_px)
        if level is None or level.directory.tile_px is None:
            return None
        height, width = level.directory.tile_px
        across = -(-shape_px[1] // width)
        for row in range(block.y0 // height, -(-block.y1 // height)):
            for column in range(block.x0 // width, -(-block.x1 // width)):
                index = row * across + column
                if level.sound[index]:
                    continue
                tile = Box(row * height, column * width, (row + 1) * height, (column + 1) * width)
                found = self._tile(level.directory, index, pixels if tile == block else None)
                if found:
                    return found
                level.sound[index] = 1
        return None

    def _tile(self, level: Directory, index: int, pixels: Pixels | None) -> str | None:
        at, count = (int(level.tags[tag].flat[index]) for tag in (OFFSETS, COUNTS))
        # A count of 0 is a gap, which is told elsewhere.
        if not 0 < count <= MOST_BYTES or not 0 <= at < 2**63:
            return None
        content = self._file.read(at, count)
        if not content.strip(b"\0"):
            return "its data are zeros alone"
        fault = FAULTS.get(level.number(COMPRESSION))
        return fault(level, content, pixels) if fault else None


@dataclass(frozen=True, slots=True)
class _Level:
    """An image, and which of its tiles were looked at and are sound: several blocks have them."""

    directory: Directory
    sound: bytearray


def _tiles(directory: Directory) -> int:
    """How many tiles an image has."""
    assert directory.tile_px is not None
    (height, width), (tall, wide) = directory.shape_px, directory.tile_px
    return -(-height // tall) * -(-width // wide)


def _fits(directory: Directory) -> bool:
    """Whether there is an offset and a size for each tile."""
    tiles = _tiles(directory)
    return all(
        tag in directory.tags and directory.tags[tag].size >= tiles for tag in (OFFSETS, COUNTS)
    )


def one_colour(rgb: NDArray[np.uint8]) -> bool:
    """Whether a block (h, w, 3) has one colour that is neither glass nor black.

    In tissue no two neighbouring pixels are equal for long; decoders fill what they cannot decode.
    """
    first = rgb[0, 0]
    if (rgb[-1, -1] != first).any() or (rgb[len(rgb) // 2, 0] != first).any():
        return False
    return bool(first.min() < GLASS and first.max() > BLACK and (rgb == first).all())


class _File:
    """A file that several threads read at once; closed when nobody needs it any more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = os.open(path, os.O_RDONLY) if hasattr(os, "pread") else None

    def read(self, at: int, count: int) -> bytes:
        """Read bytes; fewer at the end of the file."""
        if self._number is not None:
            return os.pread(self._number, count, at)
        with self._path.open("rb") as file:  # Windows has no pread
            file.seek(at)
            return file.read(count)

    def __del__(self) -> None:
        number: int | None = getattr(self, "_number", None)  # absent where opening failed
        if number is not None:
            os.close(number)
