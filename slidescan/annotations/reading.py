"""Read the regions drawn on a slide, from ASAP, NCRF or GeoJSON files.

Every region becomes a valid shapely polygon in level-0 px, (x, y) as in shapely, with a class.
Repairs are reported.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from slidescan.annotations import asap, geojson, ncrf
from slidescan.annotations.outlines import (
    EXCLUDED,
    NO_AREA,
    NOT_TUMOUR,
    TUMOUR,
    UNCLASSIFIED,
    Content,
    Outline,
    Ring,
)
from slidescan.errors import AnnotationError
from slidescan.tools.regular_files import MB, read_regular

SLIVER = 1e-4
"""Parts below this share of a repaired or cut polygon are left out. Crossing or coinciding edges
leave triangles of a few pixels, each of which would count as a lesion."""

MOST_BYTES = 512 * MB
"""A JSON document takes about ten times as much memory as its file."""

MOST_CROSSINGS = 20_000
"""Of an outline with itself. A repair of so many takes about a second."""

AT_ONCE = 256
"""Segments whose crossings are looked for at once."""

EXPECTED = "annotations of ASAP (.xml), NCRF (.json) or QuPath (.geojson)"

_GZIP = b"\x1f\x8b"
_BEFORE_XML = b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n"  # byte order marks and white space


@dataclass(frozen=True, slots=True)
class Region:
    """A named area. label: "tumour", "excluded", or the source's own class in lower case."""

    name: str
    label: str
    polygon: shapely.Polygon | shapely.MultiPolygon


@dataclass(frozen=True, slots=True)
class Annotations:
    """All regions of a file, in its order."""

    path: Path
    regions: tuple[Region, ...]
    problems: tuple[str, ...]
    """What was repaired or left out, a line each."""
    not_used: Mapping[str, int]
    """How many objects are neither tumour nor known to be something else, by kind."""

    def tumour(self) -> list[shapely.Polygon]:
        """Return the separate lesions: the union of the tumour without the excluded regions.

        They are ordered by their upper left corner. Lesions that overlap are one. Lesions that
        touch in a point, such as the lobes of a repaired ring, are two.
        """
        excluded = shapely.union_all(self._of(EXCLUDED))
        lesions = [
            part
            for whole in _polygons(shapely.union_all(self._of(TUMOUR)))
            for part in _polygons(shapely.difference(whole, excluded), SLIVER * whole.area)
        ]
        return sorted(lesions, key=lambda lesion: (lesion.bounds[1], lesion.bounds[0]))

    def describe_not_used(self) -> str:
        """Return the counts of `not_used` in words, "" where everything was used."""
        return ", ".join(f"{count} {kind}" for kind, count in self.not_used.items())

    def _of(self, label: str) -> list[shapely.Polygon | shapely.MultiPolygon]:
        return [region.polygon for region in self.regions if region.label == label]


def load_annotations(
    path: Path,
    size_l0: tuple[int, int] | None = None,
    tumour: Collection[str] = (),
) -> Annotations:
    """Read a file of annotations; its content decides which of the three formats it has.

    size_l0: (width, height) of the slide; vertices outside it are reported. tumour: names of
    classes that are tumour beside the usual ones, in any case; "unclassified" is no class.

    Raises AnnotationError: cannot be read, not well-formed, none of the three formats, or with a
    region wholly outside the slide.
    """
    try:
        content = _read(path, {name.lower() for name in tumour})
    except IsADirectoryError as error:
        raise AnnotationError(
            f"{path}: cannot be read: a folder, not a file; expected {EXPECTED}"
        ) from error
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror or error}") from error
    except RecursionError as error:
        raise AnnotationError(
            f"{path}: nested too deep for annotations; export them again"
        ) from error
    problems, not_used = content.problems, content.skipped
    regions = []
    for outline in content.outlines:
        try:
            region = _region(outline, problems)
        except AnnotationError as error:
            raise AnnotationError(f"{path}: {error}") from error
        if region is None:
            not_used[NO_AREA] += 1
        else:
            regions.append(region)
    not_used += _unknown_classes(regions)
    if size_l0:
        problems += _outside(path, regions, size_l0)
    found = Annotations(path, tuple(regions), tuple(problems), not_used)
    if not found._of(TUMOUR) or found.tumour():
        return found
    problems.append("excluded regions cover all of the tumour")
    not_used["of the tumour, which excluded regions cover"] += len(found._of(TUMOUR))
    return Annotations(path, tuple(regions), tuple(problems), not_used)


def _unknown_classes(regions: Collection[Region]) -> Counter[str]:
    """Count the regions of each class that may be tumour by another name."""
    labels = Counter(r.label for r in regions if r.label not in (TUMOUR, *NOT_TUMOUR))
    return Counter(
        {
            "without a class" if label == UNCLASSIFIED else f"of class '{label}'": count
            for label, count in labels.items()
        }
    )


def _read(path: Path, tumour: Collection[str]) -> Content:
    """Read the content of a file with the reader for its format."""
    data = read_regular(path, MOST_BYTES)
    if data.lstrip(_BEFORE_XML).startswith(b"<"):
        return asap.read(path, data, tumour)
    document = _parse(path, data)
    if ncrf.fits(document):
        return ncrf.read(path, document)
    if geojson.fits(document):
        return geojson.read(path, document, tumour)
    raise AnnotationError(
        f"{path}: JSON, but neither NCRF's (positive, negative) nor GeoJSON (type); got "
        f"{document!r:.60}"
    )


def _parse(path: Path, data: bytes) -> Any:
    if data.startswith(_GZIP):
        raise AnnotationError(f"{path}: compressed with gzip; unpack it first, with gunzip")
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        raise AnnotationError(
            f"{path}: line {error.lineno}: neither well-formed JSON ({error.msg}) nor XML; "
            f"expected {EXPECTED}"
        ) from error
    except ValueError as error:
        raise AnnotationError(
            f"{path}: not a text file in Unicode, or a number is too long; expected {EXPECTED}"
        ) from error


def _region(outline: Outline, problems: list[str]) -> Region | None:
    """Return a valid region, None where it has no area."""
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
    """Return a valid geometry of a shell and its holes, empty where the shell has no area."""
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
    if _crossings(rings) > MOST_CROSSINGS:
        raise AnnotationError(
            f"{name}: crosses itself more than {MOST_CROSSINGS:,} times, as no outline does; "
            "draw it again"
        )
    # Where a drawn line overlaps itself, "structure" fills and "linework" would leave a hole.
    valid = shapely.make_valid(polygon, method="structure", keep_collapsed=False)
    parts = _polygons(valid, SLIVER * valid.area)
    became = f"repaired, {_count(len(parts), 'polygon')}" if parts else "without an area, dropped"
    problems.append(f"{name}: {_reason(polygon)}: {became}")
    return shapely.MultiPolygon(parts)


def _crossings(rings: Sequence[Ring]) -> int:
    """Count the crossings of segments, until they are more than `MOST_CROSSINGS`.

    A repair makes a vertex of each crossing, and 10,000 random vertices have tens of millions.
    """
    pairs = [np.stack([ring, np.roll(ring, -1, axis=0)], axis=1) for ring in rings if len(ring) > 1]
    segments = shapely.linestrings(np.concatenate(pairs))
    tree, found = shapely.STRtree(segments), 0
    for first in range(0, len(segments), AT_ONCE):
        # Each crossing is found from both of its segments.
        found += tree.query(segments[first : first + AT_ONCE], predicate="crosses").shape[1]
        if found > 2 * MOST_CROSSINGS:
            break
    return found // 2


def _reason(polygon: shapely.Polygon) -> str:
    """Return why a polygon is invalid, and at which pixel."""
    reason, _, place = str(shapely.is_valid_reason(polygon)).partition("[")
    at = [f"{float(value):.0f}" for value in place.rstrip("]").split()[:2]]
    return reason.lower() + (f" at ({', '.join(at)})" if at else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _polygons(geometry: shapely.Geometry, least: float = 0.0) -> list[shapely.Polygon]:
    """Return the polygons in a geometry, however nested, of more than `least` square pixels."""
    return [
        part
        for part in shapely.get_parts(shapely.get_parts(geometry)).tolist()
        if isinstance(part, shapely.Polygon) and part.area > least
    ]


def _outside(path: Path, regions: Collection[Region], size_l0: tuple[int, int]) -> list[str]:
    """Return a line for each region that leaves the slide.

    Raises AnnotationError at a region wholly outside.
    """
    width, height = size_l0
    slide = shapely.box(0, 0, width, height)
    problems = []
    for region in regions:
        if not region.polygon.intersects(slide):
            x0, y0, x1, y1 = region.polygon.bounds
            raise AnnotationError(
                f"{path}: {region.name} (x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}) lies "
                f"outside the slide of {width} x {height} px; the annotations belong to another "
                "slide or to another level"
            )
        xy = shapely.get_coordinates(region.polygon)
        out = int(((xy < 0) | (xy > (width, height))).any(axis=1).sum())
        if out:
            problems.append(
                f"{region.name}: {out} of {len(xy)} vertices outside the slide of "
                f"{width} x {height} px"
            )
    return problems
