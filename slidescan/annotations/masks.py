"""Masks on disk, written a block of rows at a time, so that memory does not grow with the slide.

PNG and NPY are written here because Pillow, imageio and numpy.save need the whole picture, which
is 20 GB for a slide at full resolution. tifffile takes tiles as they come.
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
"""Rows of a block, except the last: a TIFF is written a row of tiles at a time."""

CLASSIC_BYTES = 2**31
"""Cells above which the TIFF is a BigTIFF, whose offsets have 64 bits."""


def check_suffix(path: Path) -> None:
    """Raise WriteError where `write_mask` does not know the format."""
    if path.suffix.lower() not in _WRITERS:
        raise WriteError(f"{path}: a mask is {', '.join(_WRITERS)}; choose an --out that ends so")


def write_mask(path: Path, blocks: Blocks, shape: tuple[int, int], mpp: float) -> int:
    """Write a mask of `shape` (rows, columns) and return how many cells are set.

    blocks: (TILE, columns) each, from the top; the last one may have fewer rows. PNG and tiled TIFF
    hold 0 and 255 in 8 bits and mpp (um per cell) as resolution; NPY holds bool.

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
    """Write grey, 8 bits, unfiltered rows (PNG specification, 3rd edition, 5.3 and 9.2)."""

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
    """Write grey, 8 bits, deflated tiles of TILE px a side, padded with 0."""
    from tifffile import TiffWriter

    height, width = shape

    def tiles() -> Iterator[NDArray[np.uint8]]:
        for block in blocks:
            for left in range(0, width, TILE):
                part = block[:, left : left + TILE]
                tile = np.zeros((TILE, TILE), np.uint8)
                tile[: len(part), : part.shape[1]][part] = 255
                yield tile

    per_cm = 1e4 / mpp
    with TiffWriter(file, bigtiff=height * width > CLASSIC_BYTES) as tiff:
        tiff.write(
            tiles(),
            shape=shape,
            dtype=np.uint8,
            tile=(TILE, TILE),
            photometric="minisblack",
            compression="zlib",
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
            metadata=None,
            maxworkers=1,  # several would first collect 256 MB of tiles
        )


_WRITERS: dict[str, Callable[[IO[bytes], Blocks, tuple[int, int], float], None]] = {
    ".png": _png,
    ".tif": _tiff,
    ".tiff": _tiff,
    ".npy": _npy,
}
