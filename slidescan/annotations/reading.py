"""Regions that somebody drew on a slide, from three kinds of file: ASAP, NCRF, GeoJSON.

Whatever the source, they become valid shapely polygons in level-0 pixels, (x, y) as shapely has
it, with a class; what had to be repaired on the way is reported.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from slidescan.annotations import asap, geojson, ncrf
from slidescan.annotations.outlines import EXCLUDED, TUMOUR, UNCLASSIFIED, Outline, Ring
from slidescan.errors import AnnotationError

SLIVER = 1e-4
"""Parts below this share of what was cut or repaired are left out: where a pen crosses its own line
or two edges coincide, triangles of a few pixels stay over, and each would count as a lesion."""

_BEFORE_XML = b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n"  # byte order marks and white space


@dataclass(frozen=True, slots=True)
class Region:
    """A named area. label: "tumour", "excluded", or the source's own class in lower case."""

    name: str
    label: str
    polygon: shapely.Polygon | shapely.MultiPolygon


@dataclass(frozen=True, slots=True)
class Annotations:
    """All regions of a file, in its order. problems: what was repaired or left out, a line each."""

    path: Path
    regions: tuple[Region, ...]
    problems: tuple[str, ...]

    def tumour(self) -> list[shapely.Polygon]:
        """The separate lesions: the union of the tumour less all that is excluded.

        Ordered by their upper left corner, as one reads. Lesions that overlap are one; those that
        touch in a point, as the lobes of a repaired ring do, are two.
        """
        excluded = shapely.union_all(self._of(EXCLUDED))
        lesions = [
            part
            for whole in _polygons(shapely.union_all(self._of(TUMOUR)))
            for part in _polygons(shapely.difference(whole, excluded), SLIVER * whole.area)
        ]
        return sorted(lesions, key=lambda lesion: (lesion.bounds[1], lesion.bounds[0]))

    def _of(self, label: str) -> list[shapely.Polygon | shapely.MultiPolygon]:
        return [region.polygon for region in self.regions if region.label == label]


def load_annotations(path: Path, size_l0: tuple[int, int] | None = None) -> Annotations:
    """Read annotations; what kind of file it is, its content says.

    size_l0: (width, height) of the slide; vertices outside it are reported.

    Raises AnnotationError: cannot be read, not well-formed, none of the three kinds, or with a
    region that lies wholly outside the slide.
    """
    try:
        outlines, problems = _read(path)
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise AnnotationError(f"{path}: nested too deep for annotations") from error
    regions = tuple(region for each in outlines if (region := _region(each, problems)))
    unclassified = sum(region.label == UNCLASSIFIED for region in regions)
    if unclassified:
        problems.append(f"{_count(unclassified, 'region')} without a class: not taken as tumour")
    if size_l0:
        problems += _outside(path, regions, size_l0)
    found = Annotations(path, regions, tuple(problems))
    if found._of(TUMOUR) and not found.tumour():
        problems.append("no tumour is left: excluded regions cover all of it")
    return Annotations(path, regions, tuple(problems))


def _read(path: Path) -> tuple[list[Outline], list[str]]:
    """What the file says, by the reader its content asks for."""
    data = path.read_bytes()
    if data.lstrip(_BEFORE_XML).startswith(b"<"):
        return asap.read(path, data)
    document = _parse(path, data)
    if ncrf.fits(document):
        return ncrf.read(path, document)
    if geojson.fits(document):
        return geojson.read(path, document)
    raise AnnotationError(
        f"{path}: JSON, but neither NCRF's (positive, negative) nor GeoJSON (type); got "
        f"{document!r:.60}"
    )


def _parse(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        raise AnnotationError(
            f"{path}: line {error.lineno}: no well-formed JSON ({error.msg}), nor XML; expected "
            "annotations of ASAP, NCRF or QuPath"
        ) from error
    except ValueError as error:
        raise AnnotationError(
            f"{path}: no text in Unicode, nor numbers that fit: {error}"
        ) from error


def _region(outline: Outline, problems: list[str]) -> Region | None:
    """A valid region, None where nothing of it has an area."""
    parts = [
        part
        for rings in outline.polygons
        for part in _polygons(_repaired(outline.name, rings, problems))
    ]
    if not parts:
        return None
    whole = parts[0] if len(parts) == 1 else shapely.union_all(parts)
    return Region(outline.name, outline.label, whole)


def _repaired(name: str, rings: tuple[Ring, ...], problems: list[str]) -> shapely.Geometry:
    """A valid geometry of a shell and its holes, empty where the shell is none."""
    enough = [len(np.unique(each, axis=0)) >= 3 for each in rings]
    if not all(enough):
        short = len(enough) - sum(enough)
        problems.append(f"{name}: {_count(short, 'ring')} of fewer than 3 points dropped")
    if not any(enough[:1]):
        return shapely.Polygon()
    kept = [each for each, keep in zip(rings, enough, strict=True) if keep]
    polygon = shapely.Polygon(kept[0], kept[1:])
    if polygon.is_valid:
        return polygon
    # Where a hand's line overlaps itself, "structure" fills, "linework" would leave a hole.
    valid = shapely.make_valid(polygon, method="structure", keep_collapsed=False)
    parts = _polygons(valid, SLIVER * valid.area)
    became = f"repaired, {_count(len(parts), 'polygon')}" if parts else "without an area, dropped"
    problems.append(f"{name}: {_reason(polygon)}: {became}")
    return shapely.MultiPolygon(parts)


def _reason(polygon: shapely.Polygon) -> str:
    """Why it is invalid and, to the pixel, where."""
    reason, _, place = str(shapely.is_valid_reason(polygon)).partition("[")
    at = [f"{float(value):.0f}" for value in place.rstrip("]").split()[:2]]
    return reason.lower() + (f" at ({', '.join(at)})" if at else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _polygons(geometry: shapely.Geometry, least: float = 0.0) -> list[shapely.Polygon]:
    """The polygons in a geometry, however nested, of more than `least` square pixels."""
    return [
        part
        for part in shapely.get_parts(shapely.get_parts(geometry)).tolist()
        if isinstance(part, shapely.Polygon) and part.area > least
    ]


def _outside(path: Path, regions: tuple[Region, ...], size_l0: tuple[int, int]) -> list[str]:
    """A line for each region that leaves the slide. AnnotationError at one off it."""
    width, height = size_l0
    slide = shapely.box(0, 0, width, height)
    problems = []
    for region in regions:
        if not region.polygon.intersects(slide):
            x0, y0, x1, y1 = region.polygon.bounds
            raise AnnotationError(
                f"{path}: {region.name} (x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}) lies "
                f"outside the slide of {width} x {height} px; the annotations are those of another "
                "slide or of another level"
            )
        xy = shapely.get_coordinates(region.polygon)
        out = int(((xy < 0) | (xy > (width, height))).any(axis=1).sum())
        if out:
            problems.append(
                f"{region.name}: {out} of {len(xy)} vertices outside the slide of "
                f"{width} x {height} px"
            )
    return problems
