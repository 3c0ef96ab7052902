"""GeoJSON as QuPath exports it: a FeatureCollection, a list of Features, a Feature or a geometry.

Coordinates are level-0 px. The class is `properties.classification.name` (QuPath 0.2 on; 0.5 has
`names` for derived classes as well), the kind of object `properties.objectType` (0.3 on), before
that `object_type` or the feature's `id`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from slidescan.annotations.outlines import (
    EXCLUDED,
    TUMOUR,
    Outline,
    Ring,
    label_of,
    one_line,
    ring,
)
from slidescan.errors import AnnotationError

_NO_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")
_GEOMETRIES = (*_NO_AREA, "Polygon", "MultiPolygon", "GeometryCollection")
# Classes that every QuPath has.
_QUPATH_NAMES = {TUMOUR: "Tumor", EXCLUDED: "Ignore*"}
_TYPES = ("FeatureCollection", "Feature", *_GEOMETRIES)


def fits(document: Any) -> bool:
    """Whether a JSON document looks like GeoJSON."""
    return isinstance(document, list) or (
        isinstance(document, dict) and document.get("type") in _TYPES
    )


def read(path: Path, document: Any) -> tuple[list[Outline], list[str]]:
    """The outlines of annotations, and what was not taken or had to be closed.

    Detections, such as QuPath's cells, are skipped: they are no annotation by a person.

    Raises AnnotationError where it is no GeoJSON.
    """
    outlines: list[Outline] = []
    problems: list[str] = []
    skipped: Counter[str] = Counter()
    for number, feature in enumerate(_features(path, document), 1):
        kind = _kind(feature)
        if kind != "annotation":
            skipped[kind] += 1
            continue
        outline = _outline(feature, number, f"{path}: feature {number}", problems)
        if outline:
            outlines.append(outline)
    problems += [
        f"skipped {count} of kind {kind}: not drawn by a person" for kind, count in skipped.items()
    ]
    return outlines, problems


def _features(path: Path, document: Any) -> list[dict[str, Any]]:
    """The features of any of the four forms."""
    if isinstance(document, dict) and document["type"] == "FeatureCollection":
        document = document.get("features")
    elif isinstance(document, dict):
        document = [document]
    if not isinstance(document, list):
        raise AnnotationError(f"{path}: features: got {document!r:.40}, expected a list")
    features = []
    for number, each in enumerate(document, 1):
        kind = each.get("type") if isinstance(each, dict) else None
        if kind != "Feature" and kind not in _GEOMETRIES:
            raise AnnotationError(
                f"{path}: feature {number}: got {each!r:.40}, expected a GeoJSON Feature"
            )
        features.append(each if kind == "Feature" else {"geometry": each})
    return features


def _properties(feature: dict[str, Any]) -> dict[str, Any]:
    found = feature.get("properties")
    return found if isinstance(found, dict) else {}


def _kind(feature: dict[str, Any]) -> str:
    """What QuPath calls the object; anything else is taken as an annotation."""
    has = _properties(feature)
    kind = has.get("objectType") or has.get("object_type")
    named = one_line(feature.get("id"))
    if not kind and named.startswith("Path") and named.endswith("Object"):
        kind = named.removeprefix("Path").removesuffix("Object")
    return one_line(kind).lower() or "annotation"


def _class(feature: dict[str, Any]) -> str:
    """The base class: "Tumor" of "Tumor: Positive"."""
    found = _properties(feature).get("classification")
    if isinstance(found, dict):
        names = found.get("names")
        found = names[0] if isinstance(names, list) and names else found.get("name")
    return one_line(found).split(":")[0]


def _outline(
    feature: dict[str, Any], number: int, where: str, problems: list[str]
) -> Outline | None:
    """The areas of a feature; what has none is reported."""
    name = one_line(_properties(feature).get("name")) or f"feature {number}"
    polygons = []
    skipped = set()
    for kind, coordinates in _parts(feature.get("geometry"), where):
        if kind == "Polygon":
            polygons.append(_rings(coordinates, name, where, problems))
        else:
            skipped.add(kind)
    problems += [f"{name}: skipped, a {kind} has no area" for kind in sorted(skipped)]
    return Outline(name, label_of(_class(feature)), tuple(polygons)) if polygons else None


def _parts(geometry: Any, where: str) -> Iterator[tuple[str, Any]]:
    """(kind, coordinates) of every simple part of a geometry, whatever the nesting."""
    if geometry is None:
        yield "missing geometry", None
        return
    kind = geometry.get("type") if isinstance(geometry, dict) else repr(geometry)
    if kind == "GeometryCollection":
        for each in _list(geometry.get("geometries"), where):
            yield from _parts(each, where)
    elif kind == "MultiPolygon":
        for each in _list(geometry.get("coordinates"), where):
            yield "Polygon", each
    elif kind == "Polygon":
        yield kind, geometry.get("coordinates")
    elif kind in _NO_AREA:
        yield kind, None
    else:
        raise AnnotationError(f"{where}: got {kind!r:.40}, expected a GeoJSON geometry")


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise AnnotationError(f"{where}: got {value!r:.40}, expected a list")
    return value


def _rings(coordinates: Any, name: str, where: str, problems: list[str]) -> tuple[Ring, ...]:
    """Shell and holes; GeoJSON repeats the first vertex at the end (RFC 7946, 3.1.6)."""
    rings = tuple(ring(each, where) for each in _list(coordinates, where))
    open_rings = sum(len(each) > 2 and not np.array_equal(each[0], each[-1]) for each in rings)
    if open_rings:
        problems.append(f"{name}: {open_rings} open ring{'s' * (open_rings > 1)} closed")
    return rings


def document(regions: Iterable[tuple[str, str, dict[str, Any]]]) -> dict[str, Any]:
    """A FeatureCollection that QuPath opens, of (name, label, geometry as GeoJSON has it)."""
    features = [
        {
            "type": "Feature",
            "geometry": geometry,
            "properties": {
                "objectType": "annotation",
                "name": name,
                "classification": {"name": _QUPATH_NAMES.get(label, label)},
            },
        }
        for name, label, geometry in regions
    ]
    return {"type": "FeatureCollection", "features": features}
