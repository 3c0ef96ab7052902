"""Masks on disk, written as they come, a block of rows at a time, so that memory stays flat.

Pillow and imageio want the whole picture at once, which for a slide at full resolution is 20 GB.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import WriteError
from slidescan.tools.atomic_files import replacing

Blocks = Iterable[NDArray[np.bool_]]

TILE = 512
"""Rows of a block, all but the last: a TIFF is written a row of tiles at a time."""

_SHORT, _LONG, _RATIONAL = 3, 4, 5


def check_suffix(path: Path) -> None:
    """Raise WriteError where `write_mask` does not know the kind of file."""
    if path.suffix.lower() not in _WRITERS:
        raise WriteError(f"{path}: a mask is {', '.join(_WRITERS)}; choose an --out that ends so")


def write_mask(path: Path, blocks: Blocks, shape: tuple[int, int], mpp: float) -> int:
    """Write a mask of `shape` (rows, columns) and return how many cells are set.

    blocks: (TILE, columns) each from the top, the last one fewer rows. PNG and tiled TIFF have 0
    and 255 in 8 bits, and mpp (um per cell) as their resolution; NPY has bool.

    Raises WriteError.
    """
    check_suffix(path)
    counted = 0

    def count() -> Iterator[NDArray[np.bool_]]:
        nonlocal counted
        for block in blocks:
            counted += int(np.count_nonzero(block))
            yield block

    with replacing(path) as beside, beside.open("wb") as file:
        _WRITERS[path.suffix.lower()](file, count(), shape, mpp)
    return counted


def _npy(file: IO[bytes], blocks: Blocks, shape: tuple[int, int], mpp: float) -> None:
    header = {"descr": "|b1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for block in blocks:
        file.write(block.tobytes())


def _png(file: IO[bytes], blocks: Blocks, shape: tuple[int, int], mpp: float) -> None:
    """Grey, 8 bits, every row unfiltered (PNG specification, 3rd edition, 5.3 and 9.2)."""

    def chunk(kind: bytes, data: bytes) -> None:
        file.write(struct.pack(">I", len(data)) + kind + data)
        file.write(struct.pack(">I", zlib.crc32(kind + data)))

    height, width = shape
    per_metre = round(1e6 / mpp)
    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    chunk(b"pHYs", struct.pack(">IIB", per_metre, per_metre, 1))
    packer = zlib.compressobj()
    for block in blocks:
        rows = np.zeros((len(block), 1 + width), np.uint8)
        rows[:, 1:][block] = 255
        chunk(b"IDAT", packer.compress(rows.tobytes()))
    chunk(b"IDAT", packer.flush())
    chunk(b"IEND", b"")


def _tiff(file: IO[bytes], blocks: Blocks, shape: tuple[int, int], mpp: float) -> None:
    """Grey, 8 bits, deflated tiles (TIFF 6.0, sections 2 and 15); the directory is at the end."""
    height, width = shape
    file.write(struct.pack("<2sHI", b"II", 42, 0))
    offsets, sizes = [], []
    for block in blocks:
        for left in range(0, width, TILE):
            part = block[:, left : left + TILE]
            tile = np.zeros((TILE, TILE), np.uint8)
            tile[: part.shape[0], : part.shape[1]][part] = 255
            offsets.append(file.tell())
            sizes.append(file.write(zlib.compress(tile.tobytes())))
    per_cm = (round(1e4 / mpp * 1000), 1000)
    directory: list[tuple[int, int, list[int] | tuple[int, ...]]] = [
        (256, _LONG, [width]),
        (257, _LONG, [height]),
        (258, _SHORT, [8]),  # bits per sample
        (259, _SHORT, [8]),  # compression: deflate
        (262, _SHORT, [1]),  # 0 is black
        (277, _SHORT, [1]),  # samples per pixel
        (282, _RATIONAL, per_cm),
        (283, _RATIONAL, per_cm),
        (296, _SHORT, [3]),  # of a centimetre
        (322, _SHORT, [TILE]),
        (323, _SHORT, [TILE]),
        (324, _LONG, offsets),
        (325, _LONG, sizes),
    ]
    _directory(file, directory)


def _directory(
    file: IO[bytes], directory: list[tuple[int, int, list[int] | tuple[int, ...]]]
) -> None:
    """Write (tag, type, values), and in the header where they are."""
    entries = []
    for tag, kind, values in directory:
        packed = struct.pack(f"<{len(values)}{'H' if kind == _SHORT else 'I'}", *values)
        if len(packed) > 4:
            file.write(b"\0" * (file.tell() % 2))  # offsets are even
            at = file.tell()
            file.write(packed)
            packed = struct.pack("<I", at)
        count = len(values) // 2 if kind == _RATIONAL else len(values)
        entries.append(struct.pack("<HHI4s", tag, kind, count, packed))
    file.write(b"\0" * (file.tell() % 2))
    at = file.tell()
    file.write(struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0))
    file.seek(4)
    file.write(struct.pack("<I", at))


_WRITERS: dict[str, Callable[[IO[bytes], Blocks, tuple[int, int], float], None]] = {
    ".png": _png,
    ".tif": _tiff,
    ".tiff": _tiff,
    ".npy": _npy,
}
