"""Pyramidal slides of any size in a small file: a tiled BigTIFF that stores equal tiles once.

Tissue and glass are JPEG tiles of 512 px at 0.243 um/px, as from a scanner, with a level for every
power of 2. A grid says where tissue lies. The levels repeat a few tiles of texture, so a slide of
100,000 px a side takes megabytes; reading it still decodes every tile.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.speed.shared import texture

MPP = 0.243
"""um/px of PatchCamelyon's slides at 40x."""
TILE = 512
QUALITY = 85
TEXTURES = 8
"""The number of different tissue tiles."""
GLASS = 243

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Level:
    """One image of the pyramid: its tiles, row by row, as (offset, bytes) in the file."""

    width: int
    height: int
    tiles: list[tuple[int, int]]


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return out.getvalue()


def write_pyramid(path: Path, tissue: Mask, cell_px: int) -> None:
    """Write a slide of `tissue.shape` times `cell_px` pixels; a cell is all tissue or all glass.

    `cell_px` is a multiple of TILE at level 0.
    """
    if cell_px % TILE:
        raise ValueError(f"cells of {cell_px} px are not made of tiles of {TILE} px")
    rows, columns = (n * cell_px for n in tissue.shape)
    with path.open("wb") as file:
        file.write(b"\0" * 16)  # the header, written last
        contents = _Contents(file)
        levels = []
        down = 1
        while max(rows, columns) // down > TILE or down == 1:
            levels.append(_level(contents, tissue, cell_px / down))
            down *= 2
        first = _directories(file, levels)
        file.seek(0)
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, first))


class _Contents:
    """The tiles in the file, equal ones stored once."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.known = file, dict[bytes, tuple[int, int]]()
        image = texture(TILE * 2, seed=1)
        self.textures = [
            image[y : y + TILE, x : x + TILE]
            for y in (0, TILE // 2, TILE)
            for x in (0, TILE // 2, TILE)
        ][:TEXTURES]
        self.whole = [self.put(tile) for tile in self.textures]
        self.glass = self.put(np.full((TILE, TILE, 3), GLASS, np.uint8))

    def put(self, pixels: NDArray[np.uint8]) -> tuple[int, int]:
        data = _jpeg(pixels)
        if data not in self.known:
            self.known[data] = self.file.seek(0, io.SEEK_END), len(data)
            self.file.write(data)
        return self.known[data]


def _level(contents: _Contents, tissue: Mask, cell: float) -> Level:
    """Write a level; `cell` is the side of a cell of `tissue` in its pixels."""
    height, width = (round(n * cell) for n in tissue.shape)
    down, across = -(-height // TILE), -(-width // TILE)
    tiles = []
    for row in range(down):
        y = _cells(row, cell, len(tissue))
        for column in range(across):
            x = _cells(column, cell, tissue.shape[1])
            touched = tissue[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
            which = (row * 31 + column * 17) % TEXTURES
            if touched.all():
                tiles.append(contents.whole[which])
            elif not touched.any():
                tiles.append(contents.glass)
            else:
                inside = tissue[np.ix_(y, x)][..., None]
                mixed = np.where(inside, contents.textures[which], np.uint8(GLASS))
                tiles.append(contents.put(mixed))
    return Level(width, height, tiles)


def _cells(tile: int, cell: float, count: int) -> NDArray[np.intp]:
    """The cell of each pixel of a tile, along one axis; pixels beyond belong to the last cell."""
    pixels = np.arange(tile * TILE, (tile + 1) * TILE)
    return np.minimum((pixels / cell).astype(np.intp), count - 1)


# Tags of TIFF 6.0 and their types.
_SHORT, _LONG, _RATIONAL, _LONG8 = (3, "H"), (4, "I"), (5, "II"), (16, "Q")


def _directories(file: BinaryIO, levels: list[Level]) -> int:
    """Write the directories and return the offset of the first."""
    first = file.seek(0, io.SEEK_END)
    for number, level in enumerate(levels):
        start = file.seek(0, io.SEEK_END)
        entries = list(_entries(level, reduced=number > 0))
        beyond = start + 8 + 20 * len(entries) + 8
        table, values = struct.pack("<Q", len(entries)), b""
        for tag, (kind, code), numbers in entries:
            packed = struct.pack(f"<{len(numbers)}{code[0]}", *numbers)
            count = len(numbers) // len(code)
            table += struct.pack("<HHQ", tag, kind, count)
            if len(packed) <= 8:
                table += packed.ljust(8, b"\0")
            else:
                table += struct.pack("<Q", beyond + len(values))
                values += packed
        following = beyond + len(values) if number + 1 < len(levels) else 0
        file.write(table + struct.pack("<Q", following) + values)
    return first


def _entries(level: Level, reduced: bool) -> Iterator[tuple[int, tuple[int, str], list[int]]]:
    per_cm = [round(1e4 / MPP * 1000), 1000]
    offsets, sizes = (list(part) for part in zip(*level.tiles, strict=True))
    yield 254, _LONG, [int(reduced)]
    yield 256, _LONG, [level.width]
    yield 257, _LONG, [level.height]
    yield 258, _SHORT, [8, 8, 8]
    yield 259, _SHORT, [7]  # JPEG
    yield 262, _SHORT, [6]  # YCbCr
    yield 277, _SHORT, [3]
    yield 282, _RATIONAL, per_cm if not reduced else [1, 1]
    yield 283, _RATIONAL, per_cm if not reduced else [1, 1]
    yield 284, _SHORT, [1]
    yield 296, _SHORT, [3]  # per centimetre
    yield 322, _LONG, [TILE]
    yield 323, _LONG, [TILE]
    yield 324, _LONG8, offsets
    yield 325, _LONG8, sizes
    yield 530, _SHORT, [2, 2]
