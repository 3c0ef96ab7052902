"""Regions and cells as GeoJSON (RFC 7946) for QuPath 0.5 to 0.7, and a script that imports them.

QuPath reads features one by one: `objectType`, `classification` (it refuses one without a colour),
`isLocked`, `measurements` as an object, `metadata` as strings, and a UUID as `id`. It passes over
other members of the collection. Coordinates are full-resolution px of the image as QuPath opens
it: cropped to the `openslide.bounds-*` of slides that have them. Other programs use level 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import shapely

from slidescan.exports.cells import Cells
from slidescan.exports.region_tables import caveat, origin, stated
from slidescan.maps.finished import recorded_bounds
from slidescan.maps.regions import Region, Rule
from slidescan.maps.store import Heatmap
from slidescan.tools.atomic_files import replacing

CLASS = "Tumor candidate"
"""Not QuPath's Tumor, so that regions are not taken for annotations that a person made."""

COLOUR = (0, 200, 255)
"""Legible on haematoxylin and eosin, and for colour-blind people."""

PROBABILITY = "P(tumour)"

NAMESPACE = uuid5(NAMESPACE_URL, "slidescan")

DIGITS = 2
"""of coordinates, px"""

Corner = tuple[int, int]
"""(x, y) of level 0 that is (0, 0) in the file"""


def recorded_corner(heatmap: Heatmap) -> Corner | None:
    """Corner of the part of the slide that QuPath shows; None in maps of earlier versions."""
    bounds = recorded_bounds(heatmap)
    return None if bounds is None else (bounds.x0, bounds.y0)


def write_regions(
    path: Path,
    heatmap: Heatmap,
    rule: Rule,
    regions: Sequence[Region],
    corner: Corner,
    name: str = CLASS,
) -> None:
    """Write regions as locked annotations of the class `name`. Raises WriteError."""
    about = _about(heatmap, corner) | {"rule": stated(rule), "note": caveat(heatmap)}
    kind = json.dumps([_identity(heatmap), stated(rule)])
    features = (_annotation(region, corner, name, kind) for region in regions)
    _write(path, about, features)


def write_cells(
    path: Path,
    heatmap: Heatmap,
    cells: Cells,
    corner: Corner,
    advance: Callable[[int], object] = lambda done: None,
) -> None:
    """Write cells as tiles, a kind of detection, the hottest first. Raises WriteError.

    `advance` is called with the number of cells that were written.
    """
    about = _about(heatmap, corner) | {
        "threshold": cells.threshold,
        "cells": len(cells.values),
        "cells_left_out": cells.left_out,
        "note": cells.note(),
    }
    _write(path, about, _tiles(heatmap, cells, corner, advance))


def _write(path: Path, about: dict[str, Any], features: Iterable[dict[str, Any]]) -> None:
    """Write a FeatureCollection, a feature a line, as they come."""
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        file.write('{"type":"FeatureCollection",\n"slidescan":')
        _dump(about, file)
        file.write(',\n"features":[')
        for number, feature in enumerate(features):
            file.write(",\n" if number else "\n")
            _dump(feature, file)
        file.write("\n]}\n")


def _dump(content: dict[str, Any], file: TextIO) -> None:
    file.write(json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False))


def _about(heatmap: Heatmap, corner: Corner) -> dict[str, Any]:
    """What the file says of its map and its coordinates."""
    frame = (
        f"px of level 0 minus openslide.bounds-x and -y ({corner[0]}, {corner[1]}), as QuPath "
        "crops the slide"
        if any(corner)
        else "px of level 0"
    )
    return origin(heatmap) | {"coordinates": frame, "corner_l0": list(corner)}


def _identity(heatmap: Heatmap) -> list[Any]:
    """What makes an object of a map the same one in another export of the map."""
    settings = heatmap.settings
    return [settings["slide"]["fingerprint"], settings["model"]["sha256"], heatmap.grid.stride]


def _annotation(region: Region, corner: Corner, name: str, kind: str) -> dict[str, Any]:
    outline = shapely.transform(region.outline, lambda points: (points - corner).round(DIGITS))
    # RFC 7946, 3.1.6: shells counterclockwise, holes clockwise.
    geometry = shapely.geometry.mapping(shapely.orient_polygons(outline))
    return {
        "type": "Feature",
        "id": str(uuid5(NAMESPACE, f"{kind} region {region.number}")),
        "geometry": geometry,
        "properties": {
            "objectType": "annotation",
            "name": f"Region {region.number}",
            "classification": {"name": name, "color": list(COLOUR)},
            "isLocked": True,
            "measurements": {
                f"{PROBABILITY} max": round(region.highest, 6),
                f"{PROBABILITY} mean": round(region.mean, 6),
                f"{PROBABILITY} 95th percentile": round(region.p95, 6),
                "Cells area um^2": round(region.area_um2, 1),
                "Cells major axis um": round(region.major_axis_um, 1),
            },
            "metadata": {"Size class": region.size_class},
        },
    }


def _tiles(
    heatmap: Heatmap, cells: Cells, corner: Corner, advance: Callable[[int], object]
) -> Iterator[dict[str, Any]]:
    """Yield the squares of cells, cut at the edge of the slide."""
    kind = json.dumps(_identity(heatmap))
    height, width = heatmap.settings["slide"]["extent_l0"]
    x_edges, y_edges = (
        (np.minimum(np.arange(count + 1) * pitch, most) - start).round(DIGITS)
        for count, pitch, most, start in zip(
            heatmap.grid.shape[::-1], cells.pitch_l0, (width, height), corner, strict=True
        )
    )
    places = zip(cells.rows.tolist(), cells.columns.tolist(), cells.values.tolist(), strict=True)
    for number, (row, column, value) in enumerate(places, start=1):
        x0, x1 = x_edges[column].item(), x_edges[column + 1].item()
        y0, y1 = y_edges[row].item(), y_edges[row + 1].item()
        yield {
            "type": "Feature",
            "id": str(uuid5(NAMESPACE, f"{kind} cell {row} {column}")),
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]],
            },
            "properties": {"objectType": "tile", "measurements": {PROBABILITY: round(value, 6)}},
        }
        if number % 1000 == 0:
            advance(1000)
    advance(len(cells.values) % 1000)


SCRIPT = """\
// Imports {file} into the open image and colours it. For QuPath 0.5 to 0.7.
// In QuPath: Automate > Script editor, open this file, Run. Research use only.
import qupath.fx.dialogs.FileChoosers
import qupath.lib.color.ColorMaps
import qupath.lib.gui.tools.MeasurementMapper
import qupath.lib.io.PathIO

def file = new File({path})
if (!file.exists()) // moved: ask for it
    file = FileChoosers.promptForFile("Where is {file}?")
if (file == null)
    return
def objects = PathIO.readObjects(file)
addObjects(objects)

// Tiles, if the file has any, are coloured by their probability.
def tiles = objects.findAll {{ it.isTile() }}
def viewer = getCurrentViewer()
if (tiles && viewer != null) {{
    def mapper = new MeasurementMapper(ColorMaps.getColorMaps().get("Viridis"), {measure}, tiles)
    mapper.setDisplayMinValue(0)
    mapper.setDisplayMaxValue(1)
    def options = viewer.getOverlayOptions()
    options.setFillDetections(true)
    options.setOpacity(0.5f)
    options.setMeasurementMapper(mapper)
}}
println objects.size() + " objects imported"
"""


def write_script(path: Path, geojson: Path) -> None:
    """Write the Groovy script that imports a file. Raises WriteError."""
    text = SCRIPT.format(
        file=geojson.name.replace("\n", " "),
        path=_groovy(str(geojson.resolve())),
        measure=_groovy(PROBABILITY),
    )
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def _groovy(text: str) -> str:
    """A Groovy string in single quotes, in which $ has no meaning."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
