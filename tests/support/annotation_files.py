"""Files of annotations in the formats of ASAP, NCRF and QuPath, and their readers' results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slidescan.annotations.reading import Annotations, load_annotations

Points = Sequence[tuple[float, float]]

SQUARE: Points = [(10, 20), (110, 20), (110, 120), (10, 120)]
HOLE: Points = [(30, 40), (50, 40), (50, 60), (30, 60)]
FAR: Points = [(300, 20), (340, 20), (340, 60), (300, 60)]
BOW_TIE: Points = [(0, 0), (100, 100), (100, 0), (0, 100)]


def asap(*annotations: tuple[str, str, Points], groups: str = "", kind: str = "Polygon") -> str:
    """ASAP's XML of (name, group, points)."""
    body = ""
    for name, group, points in annotations:
        coordinates = "".join(
            f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(points)
        )
        body += (
            f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
            f"<Coordinates>{coordinates}</Coordinates></Annotation>"
        )
    return (
        '<?xml version="1.0"?>\n<ASAP_Annotations>\n'
        f"<Annotations>{body}</Annotations>\n"
        f"<AnnotationGroups>{groups}</AnnotationGroups>\n</ASAP_Annotations>"
    )


def ncrf(positive: Sequence[Points] = (), negative: Sequence[Points] = ()) -> str:
    return json.dumps(
        {
            key: [{"name": f"{key} {i}", "vertices": ring} for i, ring in enumerate(rings)]
            for key, rings in (("positive", positive), ("negative", negative))
        }
    )


def polygon(*rings: Points) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]}


def feature(geometry: Any, label: str | None = "Tumor", **more: Any) -> dict[str, Any]:
    properties = {"objectType": "annotation", **more}
    if label is not None:
        properties["classification"] = {"name": label, "color": [200, 0, 0]}
    return {"type": "Feature", "id": "6f1c", "geometry": geometry, "properties": properties}


def load(folder: Path, text: Any, name: str = "slide.json", **more: Any) -> Annotations:
    path = folder / name
    if isinstance(text, bytes):
        path.write_bytes(text)
    else:
        path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return load_annotations(path, **more)


def areas(found: Annotations) -> list[float]:
    return [lesion.area for lesion in found.tumour()]


def labels(found: Annotations) -> list[str]:
    return [region.label for region in found.regions]


FORMS: dict[str, Any] = {
    "asap": asap(("a", "Tumor", SQUARE), ("b", "Exclusion", HOLE), ("c", "Tumor", FAR)),
    "camelyon16": asap(("a", "_0", SQUARE), ("b", "_2", HOLE), ("c", "_1", FAR)),
    "camelyon17": asap(
        ("a", "metastases", SQUARE), ("b", "normal", HOLE), ("c", "metastases", FAR)
    ),
    "ncrf": ncrf([SQUARE, FAR], [HOLE]),
    "collection": {
        "type": "FeatureCollection",
        "features": [feature(polygon(SQUARE, HOLE)), feature(polygon(FAR), "Metastasis")],
    },
    "list": [feature(polygon(SQUARE)), feature(polygon(HOLE), "Ignore*"), feature(polygon(FAR))],
    "one feature": feature(
        {
            "type": "MultiPolygon",
            "coordinates": [each["coordinates"] for each in (polygon(SQUARE, HOLE), polygon(FAR))],
        }
    ),
    "nested": feature(
        {
            "type": "GeometryCollection",
            "geometries": [
                {"type": "GeometryCollection", "geometries": [polygon(SQUARE, HOLE)]},
                polygon(FAR),
            ],
        },
        "TUMOUR",
    ),
}
