"""Read the JSON of NCRF (Li and Ping 2018, "Cancer metastasis detection with neural CRF").

`{"positive": [{"name", "vertices": [[x, y], ...]}, ...], "negative": [...]}` in level-0 px, made
from Camelyon16's XML: positive are the groups _0, _1 and Tumor, negative is _2. A ring may or may
not repeat its first vertex.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slidescan.annotations.outlines import (
    EXCLUDED,
    NORMAL,
    TUMOUR,
    Content,
    Outline,
    one_line,
    ring,
)
from slidescan.errors import AnnotationError


def fits(document: Any) -> bool:
    """Return whether a JSON document has this format."""
    return isinstance(document, dict) and bool({"positive", "negative"} & set(document))


def read(path: Path, document: dict[str, Any]) -> Content:
    """Read the outlines of a document.

    Beside positive polygons, negative ones are holes in the tumour. Without any positive polygon,
    as in the files of normal slides, they outline normal tissue.

    Raises AnnotationError where the document does not have the format.
    """
    positive, negative = (_entries(path, document, key) for key in ("positive", "negative"))
    problems = []
    if positive and path.name.lower().startswith("normal"):
        problems.append(
            f"named as a normal slide, but {len(positive)} of its polygons are positive and count "
            "as tumour; move them to negative if they outline tissue"
        )
    outlines = [*_outlines(path, "positive", positive, TUMOUR)]
    outlines += _outlines(path, "negative", negative, EXCLUDED if positive else NORMAL)
    return Content(outlines, problems)


def _entries(path: Path, document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the polygons under one key, none where it is missing."""
    entries = document.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise AnnotationError(
            f"{path}: {key}: got {entries!r:.40}, expected a list of "
            '{"name": ..., "vertices": [[x, y], ...]}'
        )
    return entries


def _outlines(path: Path, key: str, entries: list[dict[str, Any]], label: str) -> list[Outline]:
    found = []
    for number, entry in enumerate(entries, 1):
        vertices = ring(entry.get("vertices"), f"{path}: {key} {number}")
        found.append(
            Outline(one_line(entry.get("name")) or f"{key} {number}", label, ((vertices,),))
        )
    return found
