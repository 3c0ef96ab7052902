"""The directories of a TIFF: what OpenSlide reads of them but does not tell.

Classic TIFF, BigTIFF (TIFF 6.0; awaresystems.be/imaging/tiff/bigtiff.html) and NDPI, which is
classic TIFF whose links between directories have 64 bits. Only the tags below are read, and of each
a bounded number of values, so that a damaged count costs no memory. In an NDPI of more than 4 GB
only values of at most 4 bytes are right: the offsets of others lack their upper bits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from slidescan.tools.regular_files import open_regular

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
FILL_ORDER, DESCRIPTION, CHANNELS, PLANAR = 266, 270, 277, 284
PREDICTOR, SAMPLE_FORMAT = 317, 339
TILE_WIDTH, TILE_HEIGHT, OFFSETS, COUNTS = 322, 323, 324, 325
TABLES, ICC = 347, 34675
NDPI, NDPI_PLANE = 65420, 65424
"""Of Hamamatsu (openslide.org/formats/hamamatsu): its mark, and the offset of a focal plane."""

WANTED = frozenset(
    (
        *(WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION, CHANNELS, PLANAR),
        *(FILL_ORDER, PREDICTOR, SAMPLE_FORMAT, TILE_WIDTH, TILE_HEIGHT, OFFSETS, COUNTS),
        *(TABLES, ICC, NDPI, NDPI_PLANE),
    )
)

TYPES = {1: "u1", 2: "u1", 3: "u2", 4: "u4", 6: "i1", 7: "u1", 9: "i4", 16: "u8", 18: "u8"}
"""numpy's names of TIFF's types of numbers and bytes; fractions and floats are not needed."""

MOST_DIRECTORIES = 256
MOST_BYTES = 64 * 2**20
"""Of the values of one tag: four million tiles of 16 bytes."""


@dataclass(frozen=True, slots=True)
class Directory:
    """One image of a TIFF: its tags as arrays of numbers or bytes."""

    tags: Mapping[int, NDArray[np.generic]] = field(repr=False)

    def number(self, tag: int, default: int = 0) -> int:
        """The first value of a tag."""
        values = self.tags.get(tag)
        return default if values is None or not values.size else int(values.flat[0])

    def text(self, tag: int) -> str:
        """The bytes of a tag as text."""
        values = self.tags.get(tag)
        return "" if values is None else values.tobytes().decode("utf-8", "replace")

    @property
    def shape_px(self) -> tuple[int, int]:
        """(height, width)."""
        return self.number(HEIGHT), self.number(WIDTH)

    @property
    def tile_px(self) -> tuple[int, int] | None:
        """(height, width) of its tiles; None where it has strips."""
        found = self.number(TILE_HEIGHT), self.number(TILE_WIDTH)
        return found if min(found) > 0 else None


def read_directories(path: Path) -> list[Directory]:
    """Read all directories; none where the file is no TIFF, fewer where it is damaged.

    Raises OSError where the file cannot be read.
    """
    with open_regular(path) as file:
        return list(_directories(file))


def _directories(file: BinaryIO) -> Iterator[Directory]:
    size = os.fstat(file.fileno()).st_size
    start = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or len(start) < 16:
        return
    version = int(np.frombuffer(start, f"{order}u2", 1, 2)[0])
    if version not in (42, 43):
        return
    big = version == 43
    word = np.dtype(f"{order}u8" if big else f"{order}u4")
    count = np.dtype(f"{order}u8" if big else f"{order}u2")
    entry = np.dtype([("tag", f"{order}u2"), ("type", f"{order}u2"), ("count", word), ("at", word)])
    link = np.dtype(f"{order}u8")
    offset = int(np.frombuffer(start, link, 1, 8 if big else 4)[0])
    if not big and not (offset < size and _is_ndpi(_rows(file, offset, count, entry))):
        link = word
        offset = int(np.frombuffer(start, link, 1, 4)[0])
    seen: set[int] = set()
    while 0 < offset < size and offset not in seen and len(seen) < MOST_DIRECTORIES:
        seen.add(offset)
        rows = _rows(file, offset, count, entry)
        if rows is None:
            return
        yield Directory({int(row["tag"]): values for row, values in _tags(file, rows, order)})
        following = _values(file, offset + count.itemsize + rows.nbytes, link, 1)
        offset = 0 if following is None else int(following[0])


def _rows(
    file: BinaryIO, offset: int, count: np.dtype[Any], entry: np.dtype[Any]
) -> NDArray[Any] | None:
    """The entries of the directory at an offset; None where there is none."""
    entries = _values(file, offset, count, 1)
    if entries is None or int(entries[0]) > 4096:  # real ones have some twenty
        return None
    return _values(file, offset + count.itemsize, entry, int(entries[0]))


def _is_ndpi(rows: NDArray[Any] | None) -> bool:
    return rows is not None and bool((rows["tag"] == NDPI).any())


def _tags(
    file: BinaryIO, rows: NDArray[Any], order: str
) -> Iterator[tuple[Any, NDArray[np.generic]]]:
    for row in rows:
        if int(row["tag"]) not in WANTED or int(row["type"]) not in TYPES:
            continue
        kind = np.dtype(order + TYPES[int(row["type"])])
        count = int(row["count"])
        inline = row.tobytes()[-row["at"].itemsize :]  # the value itself, where it is short
        if count * kind.itemsize <= len(inline):
            yield row, np.frombuffer(inline, kind, count)
            continue
        values = _values(file, int(row["at"]), kind, count)
        if values is not None:
            yield row, values


def _values(file: BinaryIO, at: int, kind: np.dtype[np.generic], count: int) -> (
    NDArray[np.generic] | None
):  # fmt: skip
    """`count` values at byte `at`; None where the file does not hold them or they are too many."""
    wanted = count * kind.itemsize
    if wanted > MOST_BYTES or at >= 2**63:
        return None
    file.seek(at)
    content = file.read(wanted)
    return np.frombuffer(content, kind) if len(content) == wanted else None
