"""Shared by the readers of annotations: rings as the file has them, and the names of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import AnnotationError

Ring = NDArray[np.float64]
"""(n, 2): x and y of each vertex in level-0 px."""

TUMOUR = "tumour"
EXCLUDED = "excluded"
NORMAL = "normal"
UNCLASSIFIED = "unclassified"

NO_AREA = "without an area"
"""Of `Content.skipped`."""

_TUMOUR_NAMES = ("tumor", "tumour", "tumors", "tumours", "metastasis", "metastases", "positive")
_EXCLUDED_STARTS = ("ignore", "exclu")  # QuPath's Ignore*, ASAP's Exclusion

NOT_TUMOUR = (EXCLUDED, NORMAL, "negative", "benign", "non-tumor", "non-tumour")
"""Classes that are known to be no tumour; any other class may be one that is spelt differently."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A region as its file has it, unchecked: polygons of rings, the shell before its holes."""

    name: str
    label: str
    polygons: tuple[tuple[Ring, ...], ...]


@dataclass(slots=True)
class Content:
    """What a reader found in a file."""

    outlines: list[Outline] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What was repaired or left out, a line each."""
    skipped: Counter[str] = field(default_factory=Counter)
    """How many objects were left out, by kind."""


def label_of(name: str, tumour: Collection[str] = ()) -> str:
    """A class by its name: tumour, excluded, or the name itself in lower case.

    tumour: further names of the tumour, in lower case.

    >>> label_of("Metastases"), label_of("Ignore*"), label_of("Stroma"), label_of("")
    ('tumour', 'excluded', 'stroma', 'unclassified')
    >>> label_of("Carcinoma", {"carcinoma"})
    'tumour'
    """
    lower = one_line(name).lower()
    if lower in _TUMOUR_NAMES or (lower or UNCLASSIFIED) in tumour:
        return TUMOUR
    if lower.startswith(_EXCLUDED_STARTS):
        return EXCLUDED
    return lower or UNCLASSIFIED


def one_line(text: object) -> str:
    """Any text, or nothing for None, on one line: it will stand in tables and messages.

    What cannot be printed, such as a terminal's escape sequences, becomes U+FFFD.
    """
    line = "" if text is None else " ".join(str(text).split())
    return "".join(each if each.isprintable() else "\ufffd" for each in line)


def ring(points: Any, where: str) -> Ring:
    """Vertices [[x, y], ...], of which only the first two numbers count, as an array.

    Raises AnnotationError, which begins with `where`, at anything but finite numbers.
    """
    if not isinstance(points, Sequence) or isinstance(points, str):
        raise AnnotationError(f"{where}: got {points!r:.40} for vertices, expected [[x, y], ...]")
    for point in points:
        if not _is_point(point):
            raise AnnotationError(f"{where}: got {point!r:.40} for a vertex, expected [x, y] in px")
    return np.array([point[:2] for point in points], float).reshape(-1, 2)


def _is_point(point: Any) -> bool:
    """Two finite numbers at least; 1e400 is infinite, and true is no number."""
    if not isinstance(point, Sequence) or len(point) < 2:
        return False
    # Beyond this no slide reaches; it also keeps out what overflows a float.
    return all(type(value) in (int, float) and abs(value) < 1e9 for value in point[:2])
