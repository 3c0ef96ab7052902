"""Read and write GeoJSON as QuPath does.

A file is a FeatureCollection, a list of Features, a Feature or a geometry, in level-0 px. The class
is `properties.classification.name` (QuPath 0.2 and later; 0.5 also has `names` for derived
classes). The kind of object is `properties.objectType` (0.3 and later), `object_type` or the
feature's `id` before that. An object's children in QuPath's hierarchy are Features in
`childObjects`, at the feature or in its properties.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from slidescan.annotations.outlines import (
    EXCLUDED,
    NO_AREA,
    TUMOUR,
    Content,
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
# QuPath from 0.4 on refuses a class without a colour; one that it knows keeps its own.
_COLOURS = {TUMOUR: [200, 0, 0], EXCLUDED: [180, 180, 180]}
_OTHER_COLOUR = [128, 128, 128]
_TYPES = ("FeatureCollection", "Feature", *_GEOMETRIES)


def fits(document: Any) -> bool:
    """Return whether a JSON document looks like GeoJSON."""
    return isinstance(document, list) or (
        isinstance(document, dict) and document.get("type") in _TYPES
    )


def read(path: Path, document: Any, tumour: Collection[str] = ()) -> Content:
    """Read the outlines of annotations, those below others in QuPath's hierarchy included.

    Detections, such as QuPath's cells, are skipped: a person did not draw them. `tumour` are
    further names of the tumour's class.

    Raises AnnotationError where it is not GeoJSON.
    """
    content, kinds = Content(), Counter[str]()
    for number, feature in enumerate(_features(str(path), document), 1):
        kind = _kind(feature)
        if kind != "annotation":
            kinds[kind] += 1
            continue
        where = f"{path}: feature {number}"
        outline = _outline(feature, number, where, content.problems, tumour)
        if outline:
            content.outlines.append(outline)
        else:
            content.skipped[NO_AREA] += 1
    for kind, count in kinds.items():
        content.problems.append(f"skipped {count} of kind {kind}: not drawn by a person")
        content.skipped[f"of kind {kind}"] += count
    return content


def _features(where: str, document: Any) -> list[dict[str, Any]]:
    """Return the features of any of the four forms, each before its children."""
    if isinstance(document, dict) and document.get("type") == "FeatureCollection":
        document = document.get("features")
    elif isinstance(document, dict):
        document = [document]
    if not isinstance(document, list):
        raise AnnotationError(f"{where}: features: got {document!r:.40}, expected a list")
    features: list[dict[str, Any]] = []
    for each in document:
        number = len(features) + 1
        kind = each.get("type") if isinstance(each, dict) else None
        if kind != "Feature" and kind not in _GEOMETRIES:
            raise AnnotationError(
                f"{where}: feature {number}: got {each!r:.40}, expected a GeoJSON Feature"
            )
        features.append(each if kind == "Feature" else {"geometry": each})
        for holder in (each, _properties(each)):
            if holder.get("childObjects"):
                below = f"{where}: feature {number}: childObjects"
                features += _features(below, holder["childObjects"])
    return features


def _properties(feature: dict[str, Any]) -> dict[str, Any]:
    found = feature.get("properties")
    return found if isinstance(found, dict) else {}


def _kind(feature: dict[str, Any]) -> str:
    """Return QuPath's kind of the object; an object without a kind is an annotation."""
    has = _properties(feature)
    kind = has.get("objectType") or has.get("object_type")
    named = one_line(feature.get("id"))
    if not kind and named.startswith("Path") and named.endswith("Object"):
        kind = named.removeprefix("Path").removesuffix("Object")
    return one_line(kind).lower() or "annotation"


def _class(feature: dict[str, Any]) -> str:
    """Return the base class, such as "Tumor" of "Tumor: Positive"."""
    found = _properties(feature).get("classification")
    if isinstance(found, dict):
        names = found.get("names")
        found = names[0] if isinstance(names, list) and names else found.get("name")
    return one_line(found).split(":")[0]


def _outline(
    feature: dict[str, Any],
    number: int,
    where: str,
    problems: list[str],
    tumour: Collection[str],
) -> Outline | None:
    """Return the areas of a feature, None without any; parts without an area are problems."""
    name = one_line(_properties(feature).get("name")) or f"feature {number}"
    polygons = []
    skipped = set()
    for kind, coordinates in _parts(feature.get("geometry"), where):
        if kind == "Polygon":
            polygons.append(_rings(coordinates, name, where, problems))
        else:
            skipped.add(kind)
    problems += [f"{name}: skipped, a {kind} has no area" for kind in sorted(skipped)]
    label = label_of(_class(feature), tumour)
    return Outline(name, label, tuple(polygons)) if polygons else None


def _parts(geometry: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield (kind, coordinates) of every simple part of a geometry, however nested."""
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
    """Return shell and holes; GeoJSON repeats the first vertex at the end (RFC 7946, 3.1.6)."""
    rings = tuple(ring(each, where) for each in _list(coordinates, where))
    open_rings = sum(len(each) > 2 and not np.array_equal(each[0], each[-1]) for each in rings)
    if open_rings:
        problems.append(f"{name}: {open_rings} open ring{'s' * (open_rings > 1)} closed")
    return rings


def document(regions: Iterable[tuple[str, str, dict[str, Any]]]) -> dict[str, Any]:
    """Return a FeatureCollection for QuPath, of (name, label, GeoJSON geometry) triples."""
    features = [
        {
            "type": "Feature",
            "geometry": geometry,
            "properties": {
                "objectType": "annotation",
                "name": name,
                "classification": {
                    "name": _QUPATH_NAMES.get(label, label),
                    "color": _COLOURS.get(label, _OTHER_COLOUR),
                },
            },
        }
        for name, label, geometry in regions
    ]
    return {"type": "FeatureCollection", "features": features}
