"""The JSON form of NCRF (Li and Ping 2018, "Cancer metastasis detection with neural CRF").

`{"positive": [{"name", "vertices": [[x, y], ...]}, ...], "negative": [...]}` in level-0 px, made
from Camelyon16's XML: positive are the groups _0, _1 and Tumor, negative is _2. A ring may or may
not repeat its first vertex.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slidescan.annotations.outlines import EXCLUDED, NORMAL, TUMOUR, Outline, one_line, ring
from slidescan.errors import AnnotationError


def fits(document: Any) -> bool:
    """Whether a JSON document is of this form."""
    return isinstance(document, dict) and bool({"positive", "negative"} & set(document))


def read(path: Path, document: dict[str, Any]) -> tuple[list[Outline], list[str]]:
    """The outlines in a document, and what looks wrong with it.

    The files of normal slides have no positive polygon, and outline their tissue as negative: there
    `negative` means normal tissue, beside positive polygons it means holes in the tumour.

    Raises AnnotationError where it is not of the form.
    """
    positive, negative = (_entries(path, document, key) for key in ("positive", "negative"))
    problems = []
    if positive and path.name.lower().startswith("normal"):
        problems.append(
            f"named as a normal slide, yet {len(positive)} of its polygons are positive: taken as "
            "tumour; move them to negative if they outline the tissue"
        )
    outlines = [*_outlines(path, "positive", positive, TUMOUR)]
    outlines += _outlines(path, "negative", negative, EXCLUDED if positive else NORMAL)
    return outlines, problems


def _entries(path: Path, document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The polygons under one key, none where it is missing."""
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
