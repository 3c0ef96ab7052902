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
    """A region as in its file, not yet checked: polygons of rings, the shell before its holes."""

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
    """Return the class of a name: tumour, excluded, or the name itself in lower case.

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
    """Return any text on one line, "" for None, so that it can be printed in a table.

    Characters that cannot be printed, such as escape sequences, become U+FFFD.
    """
    line = "" if text is None else " ".join(str(text).split())
    return "".join(each if each.isprintable() else "\ufffd" for each in line)


def ring(points: Any, where: str) -> Ring:
    """Return vertices [[x, y], ...] as an array; further numbers of a vertex are ignored.

    Raises AnnotationError, whose message starts with `where`, at anything but finite numbers.
    """
    if not isinstance(points, Sequence) or isinstance(points, str):
        raise AnnotationError(f"{where}: got {points!r:.40} for vertices, expected [[x, y], ...]")
    for point in points:
        if not _is_point(point):
            raise AnnotationError(f"{where}: got {point!r:.40} for a vertex, expected [x, y] in px")
    return np.array([point[:2] for point in points], float).reshape(-1, 2)


def _is_point(point: Any) -> bool:
    """Return whether a value has two finite numbers or more; true is not a number."""
    if not isinstance(point, Sequence) or len(point) < 2:
        return False
    # No slide is larger; the limit also refuses infinite numbers such as 1e400.
    return all(type(value) in (int, float) and abs(value) < 1e9 for value in point[:2])
