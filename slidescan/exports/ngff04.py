"""Maps as OME-NGFF 0.4 in zarr format 2, for programs that read nothing newer.

The specification: ngff.openmicroscopy.org/0.4.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import WriteError
from slidescan.geometry import Box
from slidescan.maps.finished import scanned_share
from slidescan.maps.layout import BLOCK_CELLS, COLOURS, GAPS, TISSUE, Version2
from slidescan.maps.ngff import multiscales, omero, touched
from slidescan.maps.store import Heatmap
from slidescan.protocols import OpenBar
from slidescan.tools.atomic_files import check_folder, replacing_folder

VERSION = "0.4"


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a folder that cannot be written, or must not be replaced.

    Raises WriteError: not the name of a zarr folder, no folder to make it in, or something is there
    that `overwrite` does not replace, which is anything but an image of OME-NGFF 0.4.
    """
    if path.suffix != ".zarr":
        raise WriteError(f"{path}: a zarr folder; name it so, e.g. --out {path.stem or 'map'}.zarr")
    check_folder(path)
    if not os.path.lexists(path):
        return
    if not (path / ".zattrs").is_file():
        raise WriteError(f"{path}: no OME-NGFF {VERSION}, so left alone; choose another --out")
    if not overwrite:
        raise WriteError(f"{path}: exists; pass --overwrite or choose another --out")


def write(heatmap: Heatmap, path: Path, bar: OpenBar) -> None:
    """Write a map, its tissue mask and its gaps to a folder; a folder at `path` is replaced.

    A map that is not finished has its finest level only.

    Raises:
        MapError: the map cannot be read.
        WriteError: the folder cannot be written.
    """
    shapes = heatmap.shapes if heatmap.complete else heatmap.shapes[:1]
    labels = {TISSUE: heatmap.mask}
    if heatmap.gaps is not None:
        labels[GAPS] = heatmap.gaps
    total = (1 + len(labels)) * sum(rows * columns for rows, columns in shapes)
    with replacing_folder(path) as beside, bar("writing", total, "cells") as shown:
        file = Version2(beside, _image(heatmap, path.stem, len(shapes)))
        for level, shape in enumerate(shapes):
            array = file.array(str(level), shape, np.float32, float("nan"))
            for block in Box(0, 0, *shape).split(BLOCK_CELLS):
                array[block.slices] = heatmap.read(block, level)
                shown.update(block.area)
        file.group("labels", {"labels": [_name(label) for label in labels]})
        for label, cells in labels.items():
            file.group(label, _label(heatmap, label, len(shapes)))
            for level, shape in enumerate(shapes):
                _put(file, f"{label}/{level}", cells)
                cells = touched(cells)
                shown.update(shape[0] * shape[1])


def _put(file: Version2, name: str, cells: NDArray[np.bool_]) -> None:
    array = file.array(name, (cells.shape[0], cells.shape[1]), np.uint8, 0)
    for y in range(0, len(cells), BLOCK_CELLS):
        rows = slice(y, y + BLOCK_CELLS)
        array[rows] = cells[rows].astype(np.uint8)


def _image(heatmap: Heatmap, name: str, levels: int) -> dict[str, Any]:
    """The attributes of the image, what made the map included."""
    record = {
        "settings": heatmap.settings,
        "provenance": heatmap.provenance,
        "scanned_share": scanned_share(heatmap),
    }
    return {
        "multiscales": _scales(heatmap, name, levels, "mean"),
        "omero": {**omero(name), "version": VERSION},
        "slidescan": {"map": heatmap.path.name, **record},
    }


def _label(heatmap: Heatmap, label: str, levels: int) -> dict[str, Any]:
    return {
        "multiscales": _scales(heatmap, _name(label), levels, "max"),
        "image-label": {
            "version": VERSION,
            "colors": [{"label-value": 1, "rgba": list(COLOURS[label])}],
            "source": {"image": "../../"},
        },
    }


def _scales(heatmap: Heatmap, name: str, levels: int, kind: str) -> list[dict[str, Any]]:
    cell_um = heatmap.mpp * heatmap.grid.stride
    return [{"version": VERSION, **each} for each in multiscales(name, cell_um, levels, kind)]


def _name(label: str) -> str:
    return label.rpartition("/")[2]
