"""Small slides written with tifffile: pyramidal tiled TIFFs that OpenSlide's generic-tiff opens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Pixels = NDArray[np.uint8]


def checkerboard(height: int, width: int, side: int = 32) -> Pixels:
    """Every block has its own colour, so that a swap of x and y or a wrong level shows."""
    row, column = np.ogrid[:height, :width]
    row, column = row // side, column // side
    channels = (40 + 17 * row % 211, 30 + 29 * column % 223, 60 + 140 * ((row + column) % 2))
    return np.stack(np.broadcast_arrays(*channels), axis=-1).astype(np.uint8)


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    """Independent pixels, so that a value that depends on a read's origin shows."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def waves(height: int, width: int) -> Pixels:
    """Smooth pixels: a shift by half a pixel changes them by a few grey levels."""
    y, x = np.mgrid[:height, :width]
    waves = (np.sin(y / 23), np.sin(x / 31), np.cos((x + 2 * y) / 41))
    return (128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def section(height: int, width: int, seed: int = 0) -> Pixels:
    """H&E tissue on glass: nuclei, eosin and pale eosin inside an ellipse left of the middle."""
    rng = np.random.default_rng(seed)
    stains = np.array([(90, 60, 140), (215, 125, 175), (240, 215, 232)], float)
    fields = ndimage.gaussian_filter(rng.normal(size=(3, height, width)), (0, 4, 4))
    pixels = stains[fields.argmax(axis=0)]
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    pixels[(y / 0.8) ** 2 + ((x + 0.3) / 0.6) ** 2 > 1] = 243
    return np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)


def shrink(pixels: Pixels, level: int | tuple[int, int]) -> Pixels:
    """Average n x n blocks, dropping what does not fill one; or resize to (height, width)."""
    height, width = pixels.shape[:2]
    if isinstance(level, int):
        shape = height // level, width // level
        box = (0, 0, shape[1] * level, shape[0] * level)
    else:
        shape, box = level, (0, 0, width, height)
    image = Image.fromarray(pixels)
    return np.asarray(image.resize(shape[::-1], Image.Resampling.BOX, box))


def write_slide(
    path: Path,
    pixels: Pixels,
    mpp: float | tuple[float, float] | None = 0.25,
    levels: Sequence[int | tuple[int, int]] = (),
    tile: int = 64,
    compression: str | None = "deflate",
) -> list[Pixels]:
    """Write a pyramid and return the pixels of its levels, level 0 first.

    `mpp` is um/px of level 0, (y, x) where a pair; None records none. `levels` are downsamples,
    whose dimensions are rounded down, or shapes (height, width). JPEG changes the pixels.
    """
    pyramid = [pixels, *(shrink(pixels, level) for level in levels)]
    mpp_y, mpp_x = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    with tifffile.TiffWriter(path) as tiff:
        for index, level in enumerate(pyramid):
            # Pixels per centimetre, along x first as TIFF has it.
            resolution = (1e4 / mpp_x, 1e4 / mpp_y) if mpp_x and mpp_y else None
            tiff.write(
                level,
                tile=(tile, tile),
                photometric="ycbcr" if compression == "jpeg" else "rgb",
                compression=compression,
                resolution=resolution,
                resolutionunit="CENTIMETER" if resolution else None,
                subfiletype=int(index > 0),
                metadata=None,
            )
    return pyramid


def spoil_tile(path: Path, row: int, column: int, level: int = 0) -> None:
    """Overwrite one tile with garbage; header and index stay valid."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[level]
        assert isinstance(page, tifffile.TiffPage)
        index = row * -(-page.imagewidth // page.tilewidth) + column
        offset, count = page.dataoffsets[index], page.databytecounts[index]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x5a" * count)


def drop_tile(path: Path, row: int, column: int, level: int = 0) -> None:
    """Set the byte count of one tile to 0: the file holds no pixels of it."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[level]
        assert isinstance(page, tifffile.TiffPage)
        tag = page.tags["TileByteCounts"]
        index = row * -(-page.imagewidth // page.tilewidth) + column
        size = tag.valuebytecount // tag.count
    with path.open("r+b") as file:
        file.seek(tag.valueoffset + index * size)
        file.write(bytes(size))


def truncate(path: Path, share: float) -> None:
    """Cut the file, as an interrupted copy does; tifffile writes level 0's index first."""
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))


def write_strips(path: Path, pixels: Pixels) -> None:
    """Write a plain TIFF without tiles."""
    tifffile.imwrite(path, pixels, photometric="rgb")
