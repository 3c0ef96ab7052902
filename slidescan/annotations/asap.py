"""Read ASAP's XML, the format of Camelyon16 and Camelyon17.

`ASAP_Annotations / Annotations / Annotation[Name, Type, PartOfGroup] / Coordinates /
Coordinate[Order, X, Y]` in level-0 px, and `AnnotationGroups / Group[Name, PartOfGroup]`: a group
may lie in another. Rings do not repeat their first vertex.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from slidescan.annotations.outlines import (
    EXCLUDED,
    NO_AREA,
    TUMOUR,
    UNCLASSIFIED,
    Content,
    Outline,
    label_of,
    one_line,
    ring,
)
from slidescan.errors import AnnotationError

# As in the challenges' own scripts: Camelyon16 paints _2 over _0 and _1 in its masks, Camelyon17
# paints normal over metastases.
_GROUPS = {"_0": TUMOUR, "_1": TUMOUR, "_2": EXCLUDED, "normal": EXCLUDED, "none": UNCLASSIFIED}
_AREAS = ("polygon", "rectangle", "spline")


def read(path: Path, data: bytes, tumour: Collection[str] = ()) -> Content:
    """Read the outlines of a file; `tumour` are further names of the tumour's group.

    Raises AnnotationError: not well-formed, a DTD (entities can fetch files, or grow without
    bound), another kind of XML, a coordinate that is not a number.
    """
    document = _Document(path, tumour)
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda tag, has: document.start(parser.CurrentLineNumber, tag, has)
    parser.StartDoctypeDeclHandler = lambda *_: document.refuse(
        parser.CurrentLineNumber, "has a DTD, which is not read; remove the DOCTYPE line"
    )
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise AnnotationError(f"{path}: not well-formed XML: {error}; export it again") from error
    return document.content()


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
    tumour: Collection[str]
    root: str | None = None
    annotations: list[_Annotation] = field(default_factory=list)
    parents: dict[str, str] = field(default_factory=dict)

    def refuse(self, line: int, why: str) -> None:
        raise AnnotationError(f"{self.path}: line {line}: {why}")

    def start(self, line: int, tag: str, has: dict[str, str]) -> None:
        """Take up the start of an element."""
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
        """Return a coordinate; anything but a finite number is refused."""
        try:
            value = float(has.get(key, ""))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            self.refuse(line, f"got {key}={has.get(key)!r:.40}, expected a number of pixels")
        return value

    def content(self) -> Content:
        """Return what was collected; groups stand at the end of the file."""
        content = Content()
        for each in self.annotations:
            if each.kind not in _AREAS:
                content.problems.append(f"{each.name}: skipped, a {each.kind} has no area")
                content.skipped[NO_AREA] += 1
                continue
            if each.kind == "spline":
                content.problems.append(f"{each.name}: spline read as the polygon of its points")
            vertices = ring(each.points, f"{self.path}: {each.name}")
            outline = Outline(each.name, self.label(each.group), ((vertices,),))
            content.outlines.append(outline)
        return content

    def label(self, group: str) -> str:
        """Return the class of a group, or of the nearest group around it with a known class."""
        own, seen = _label(group, self.tumour), set[str]()
        while group and group not in seen:
            label = _label(group, self.tumour)
            if label in (TUMOUR, EXCLUDED):
                return label
            seen.add(group)
            group = self.parents.get(group, "")
        return own


def _label(group: str, tumour: Collection[str]) -> str:
    known = _GROUPS.get(one_line(group).lower(), label_of(group, tumour))
    return label_of(known, tumour) if known == UNCLASSIFIED else known
