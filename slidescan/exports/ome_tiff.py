"""Maps as OME-TIFF: pyramids of tiles with the resolution and the place of the map.

The layout is that of the specification (docs.openmicroscopy.org/ome-model: OME-TIFF with
sub-resolutions): level 0 is the page, coarser levels are its SubIFDs, and OME-XML is the page's
description.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffWriter

from slidescan.geometry import Box
from slidescan.maps.finished import scanned_share
from slidescan.maps.store import Heatmap
from slidescan.pictures.colours import Colours
from slidescan.protocols import OpenBar

if TYPE_CHECKING:
    from slidescan.exports.qupath import Corner

TILE_PX = 256

CLASSIC_BYTES = 2**31
"""Larger files, before compression, are BigTIFF, which has 64-bit offsets."""


def write(
    heatmap: Heatmap, path: Path, corner: Corner, colours: Colours | None, bar: OpenBar
) -> None:
    """Write the levels of a map to a file, a row of tiles at a time.

    corner: the (x, y) of level 0 that positions are measured from.
    colours: 8 bits, RGB, white where nothing was scanned; None writes the probabilities as float32,
        NaN where nothing was scanned. A map that is not finished has its finest level only.

    Raises SlidescanError where the map cannot be read.
    """
    shapes = heatmap.shapes if heatmap.complete else heatmap.shapes[:1]
    pixel = np.dtype(np.float32) if colours is None else np.dtype((np.uint8, (3,)))
    total = sum(rows * columns for rows, columns in shapes)
    big = total * pixel.itemsize > CLASSIC_BYTES
    with TiffWriter(path, ome=True, bigtiff=big) as tiff, bar("writing", total, "cells") as shown:
        for level, shape in enumerate(shapes):
            um = heatmap.mpp * heatmap.grid.stride * 2**level
            tiff.write(
                _tiles(heatmap, level, colours, shown.update),
                shape=shape if colours is None else (*shape, 3),
                dtype=pixel.base,
                tile=(TILE_PX, TILE_PX),
                photometric="minisblack" if colours is None else "rgb",
                planarconfig=None if colours is None else "contig",
                compression="zlib",
                resolution=(1e4 / um, 1e4 / um),
                resolutionunit="CENTIMETER",
                subifds=len(shapes) - 1 if not level else None,
                subfiletype=1 if level else 0,
                metadata=None if level else _metadata(heatmap, corner, um, colours is not None),
                software="slidescan",
                maxworkers=1,  # several would first collect 256 MB of tiles
            )


def _tiles(
    heatmap: Heatmap, level: int, colours: Colours | None, on_cells: Any
) -> Iterator[NDArray[Any]]:
    """The tiles of a level, row by row, padded to whole tiles."""
    rows, columns = heatmap.shapes[level]
    for y in range(0, rows, TILE_PX):
        strip = Box(y, 0, min(y + TILE_PX, rows), columns)
        values = heatmap.read(strip, level)
        for x in range(0, columns, TILE_PX):
            part = values[:, x : x + TILE_PX]
            tile = np.full((TILE_PX, TILE_PX), np.nan, np.float32)
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile if colours is None else _coloured(tile, colours)
        on_cells(strip.area)


def _coloured(values: NDArray[np.float32], colours: Colours) -> NDArray[np.uint8]:
    """RGB of probabilities, (h, w, 3); white where nothing was scanned, like the glass."""
    out = colours.rgb[colours.entries(values)]
    out[np.isnan(values)] = 255
    return out


def _metadata(heatmap: Heatmap, corner: Corner, um: float, coloured: bool) -> dict[str, Any]:
    """What tifffile writes as OME-XML."""
    slide, model = heatmap.provenance["slide"], heatmap.settings["model"]["name"]
    what = "colours of P(tumour)" if coloured else "P(tumour), NaN where not scanned"
    mpp_y, mpp_x = heatmap.settings["slide"]["mpp"]
    share = "" if heatmap.complete else f"; {scanned_share(heatmap):.1%} of the cells scanned"
    frame = f"pixel {corner} of the slide's level 0" if any(corner) else "level 0 of the slide"
    return {
        "axes": "YXS" if coloured else "YX",
        "Name": heatmap.path.stem,
        "Description": (
            f"{what}; slide {slide}; model {model}; position in um from {frame}; "
            f"research use only{share}"
        ),
        "PhysicalSizeX": um,
        "PhysicalSizeXUnit": "\N{MICRO SIGN}m",
        "PhysicalSizeY": um,
        "PhysicalSizeYUnit": "\N{MICRO SIGN}m",
        "Channel": {"Name": "P(tumour)"},
        "Plane": {
            "PositionX": [0.0 - corner[0] * mpp_x],
            "PositionXUnit": ["\N{MICRO SIGN}m"],
            "PositionY": [0.0 - corner[1] * mpp_y],
            "PositionYUnit": ["\N{MICRO SIGN}m"],
        },
    }
