"""Tiles whose data look damaged although they decode: OpenSlide passes no decoder's warning on.

Found: data that are zeros alone, and JPEG data without a beginning, an end or valid markers, or
with a run of zeros. Not found: changed bits that give other valid codes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.geometry import Box
from slidescan.slides.tiff_index import COMPRESSION, COUNTS, OFFSETS, PLANAR, TABLES, Directory

JPEG = 7
"""TIFF Technical Note 2."""

START, END = b"\xff\xd8", b"\xff\xd9"
PADDING = 16
"""Bytes after the end of the data that some writers add."""

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""In the data of a scan 0xff is followed by 0, a restart marker or padding (ITU-T T.81, B.1.1)."""
SCAN, PROGRESSIVE = b"\xff\xda", b"\xff\xc2"

HUFFMAN, LUMINANCE_AC, END_OF_BLOCK = b"\xff\xc4", 0x10, 0x00
ZEROS = bytes(64)
"""More than two blocks in which every coefficient is the same: with the usual table each has 24
bytes. What an interrupted copy leaves is a multiple of 512 bytes."""

MOST_BYTES = 16 * 2**20

GLASS = 200
"""A block of one colour whose darkest channel is at least this may be glass."""
BLACK = 8
"""A block that is darker was not imaged."""


class TileCheck:
    """Checks the data of the tiles of one TIFF. Safe to call from several threads."""

    def __init__(self, path: Path, directories: Sequence[Directory]) -> None:
        self._file = _File(path)
        self._levels = {
            each.shape_px: each
            for each in reversed(directories)  # of equal images OpenSlide takes the first
            if each.tile_px and each.number(PLANAR, 1) == 1 and _fits(each)
        }

    def reason(self, shape_px: tuple[int, int], block: Box) -> str | None:
        """Why the data of a block look damaged; None where they do not.

        `shape_px` is that of its level, by which it is found, `block` in pixels of the level.
        """
        level = self._levels.get(shape_px)
        if level is None or level.tile_px is None:
            return None
        (height, width), across = level.tile_px, -(-shape_px[1] // level.tile_px[1])
        for row in range(block.y0 // height, -(-block.y1 // height)):
            for column in range(block.x0 // width, -(-block.x1 // width)):
                found = self._tile(level, row * across + column)
                if found:
                    return found
        return None

    def _tile(self, level: Directory, index: int) -> str | None:
        count = int(level.tags[COUNTS].flat[index])
        if not 0 < count <= MOST_BYTES:  # none: a gap, which is told elsewhere
            return None
        content = self._file.read(int(level.tags[OFFSETS].flat[index]), count)
        if content.count(0) == len(content):
            return "its data are zeros alone"
        if level.number(COMPRESSION) != JPEG:
            return None
        tables = level.tags.get(TABLES)
        return jpeg_fault(content, b"" if tables is None else tables.tobytes())


def _fits(directory: Directory) -> bool:
    """Whether there is an offset and a size for each tile."""
    assert directory.tile_px is not None
    (height, width), (tall, wide) = directory.shape_px, directory.tile_px
    tiles = -(-height // tall) * -(-width // wide)
    return all(
        tag in directory.tags and directory.tags[tag].size >= tiles for tag in (OFFSETS, COUNTS)
    )


def jpeg_fault(content: bytes, tables: bytes = b"") -> str | None:
    """What is wrong with JPEG data, as far as markers tell; None where nothing is.

    `tables` are those that a TIFF keeps for all of its tiles.

    >>> jpeg_fault(b"\\xff\\xd8\\xff\\xda\\x12\\xff\\x00\\x34\\xff\\xd9") is None
    True
    >>> jpeg_fault(b"\\xff\\xd8\\xff\\xda\\x12\\xff\\x00\\x34\\x00\\x00")
    'its JPEG data have no end'
    """
    if not content.startswith(START):
        return "its JPEG data have no beginning"
    end = content.rfind(END, -PADDING - len(END))
    if end < 0:
        return "its JPEG data have no end"
    scan = content.find(SCAN)
    several_scans = content.find(PROGRESSIVE, 0, max(0, scan)) >= 0
    if scan < 0 or (not several_scans and MARKER.search(content, scan + len(SCAN), end)):
        return "its JPEG data have markers where none can be"
    zeros = content.find(ZEROS, scan, end) if scan >= 0 and not several_scans else -1
    if zeros >= 0 and _zeros_are_noise(content[:scan] + tables):
        return "its JPEG data hold a run of zeros that no picture has"
    return None


def _zeros_are_noise(header: bytes) -> bool:
    """Whether zeros in the data of a scan stand for coefficients, and not for a flat area.

    The shortest code of a Huffman table is all zeros (ITU-T T.81, annex C). Where it stands for the
    end of a block, zeros are a flat area; else every coefficient of many blocks would be the same.
    """
    at = header.find(HUFFMAN)
    while at >= 0:
        place, end = at + 4, at + 2 + int.from_bytes(header[at + 2 : at + 4], "big")
        while place + 17 <= min(end, len(header) - 1):
            if header[place] == LUMINANCE_AC:
                return header[place + 17] != END_OF_BLOCK
            place += 17 + sum(header[place + 1 : place + 17])
        at = header.find(HUFFMAN, max(at + 2, end))
    return False


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
