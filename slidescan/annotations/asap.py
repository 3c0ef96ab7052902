"""ASAP's XML, the form of Camelyon16 and Camelyon17.

`ASAP_Annotations / Annotations / Annotation[Name, Type, PartOfGroup] / Coordinates /
Coordinate[Order, X, Y]` in level-0 px, and `AnnotationGroups / Group[Name, PartOfGroup]`, by which
a group may lie in another. Rings do not repeat their first vertex.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from slidescan.annotations.outlines import (
    EXCLUDED,
    TUMOUR,
    UNCLASSIFIED,
    Outline,
    label_of,
    one_line,
    ring,
)
from slidescan.errors import AnnotationError

# Of the challenges' scripts that make masks: Camelyon16 paints _2 over _0 and _1, Camelyon17
# paints normal over metastases.
_GROUPS = {"_0": TUMOUR, "_1": TUMOUR, "_2": EXCLUDED, "normal": EXCLUDED, "none": UNCLASSIFIED}
_AREAS = ("polygon", "rectangle", "spline")


def read(path: Path, data: bytes) -> tuple[list[Outline], list[str]]:
    """The outlines in a file, and what was not taken from it.

    Raises AnnotationError: not well-formed, a DTD (entities can fetch files, or grow without
    bound), another kind of XML, a coordinate that is no number.
    """
    document = _Document(path)
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda tag, has: document.start(parser.CurrentLineNumber, tag, has)
    parser.StartDoctypeDeclHandler = lambda *_: document.refuse(
        parser.CurrentLineNumber, "has a DTD, which is not read; remove the DOCTYPE"
    )
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise AnnotationError(f"{path}: no well-formed XML: {error}; export it again") from error
    return document.outlines()


@dataclass(slots=True)
class _Annotation:
    name: str
    kind: str
    group: str
    points: list[tuple[float, float]] = field(default_factory=list)


@dataclass(slots=True)
class _Document:
    """Collects annotations and groups while the parser goes through the file."""

    path: Path
    root: str | None = None
    annotations: list[_Annotation] = field(default_factory=list)
    parents: dict[str, str] = field(default_factory=dict)

    def refuse(self, line: int, why: str) -> None:
        raise AnnotationError(f"{self.path}: line {line}: {why}")

    def start(self, line: int, tag: str, has: dict[str, str]) -> None:
        """An element begins."""
        if self.root is None:
            self.root = tag
            if tag != "ASAP_Annotations":
                self.refuse(line, f"got <{tag}>, expected ASAP's <ASAP_Annotations>")
        if tag == "Annotation":
            name = one_line(has.get("Name")) or f"annotation {len(self.annotations) + 1}"
            kind, group = has.get("Type", "Polygon").lower(), has.get("PartOfGroup", "")
            self.annotations.append(_Annotation(name, kind, group))
        elif tag == "Coordinate":
            if not self.annotations:
                self.refuse(line, "got <Coordinate> before any <Annotation>")
            self.annotations[-1].points.append(
                (self.number(line, has, "X"), self.number(line, has, "Y"))
            )
        elif tag == "Group":
            self.parents[has.get("Name", "")] = has.get("PartOfGroup", "")

    def number(self, line: int, has: dict[str, str], key: str) -> float:
        """A coordinate, which must be a finite number."""
        try:
            value = float(has.get(key, ""))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self.refuse(line, f"got {key}={has.get(key)!r:.40}, expected a number of pixels")
        return value

    def outlines(self) -> tuple[list[Outline], list[str]]:
        """What was collected, once the groups are known: they stand at the end of the file."""
        found, problems = [], []
        for each in self.annotations:
            if each.kind not in _AREAS:
                problems.append(f"{each.name}: skipped, a {each.kind} has no area")
                continue
            if each.kind == "spline":
                problems.append(f"{each.name}: a spline, taken as the polygon of its points")
            vertices = ring(each.points, f"{self.path}: {each.name}")
            found.append(Outline(each.name, self.label(each.group), ((vertices,),)))
        return found, problems

    def label(self, group: str) -> str:
        """By the group, or by the nearest group around it that means something."""
        own, seen = _label(group), set[str]()
        while group and group not in seen:
            label = _label(group)
            if label in (TUMOUR, EXCLUDED):
                return label
            seen.add(group)
            group = self.parents.get(group, "")
        return own


def _label(group: str) -> str:
    return _GROUPS.get(one_line(group).lower(), label_of(group))
