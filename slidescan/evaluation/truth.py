"""Which annotations belong to which slide, and which slides without annotations are normal.

A missing file does not make a slide normal: it may have been forgotten or renamed, and detections
on its lesions would count as false positives. The user states which slides are normal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slidescan.errors import AnnotationError, DataError
from slidescan.evaluation.paths import find_annotations, stem
from slidescan.tools.csv_tables import read_table

_LABELS = {"0": 0, "1": 1, "normal": 0, "tumour": 1, "tumor": 1}


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known about all slides. Names are compared in lower case."""

    folder: Path
    files: Mapping[str, Path]
    """the annotations by their stem"""
    labels: Mapping[str, int] = field(default_factory=dict)
    """1 for tumour, by the name in the table, with or without the file's ending"""
    normal_prefix: str = ""
    """slides whose names start with this are normal"""
    unannotated_normal: bool = False

    @classmethod
    def of(
        cls,
        folder: Path,
        reference: Path | None = None,
        normal_prefix: str = "",
        *,
        unannotated_normal: bool = False,
    ) -> Truth:
        """Read the folder and the table. Raises AnnotationError, DataError."""
        labels = {}
        if reference:
            text = read_column(reference, "label")
            wrong = [name for name, value in text.items() if value.casefold() not in _LABELS]
            if wrong:
                raise DataError(
                    f"{reference}: the label of {wrong[0]} is {text[wrong[0]]!r}; expected 0, 1, "
                    "normal or tumour"
                )
            labels = {name: _LABELS[value.casefold()] for name, value in text.items()}
        return cls(
            folder, find_annotations(folder), labels, normal_prefix.casefold(), unannotated_normal
        )

    def file(self, names: Sequence[str]) -> Path | None:
        """Return the annotations of a slide by the first of its names that has any.

        None for a slide without annotations that is stated to be normal. Raises AnnotationError.
        """
        found = [self.files[key] for name in names if (key := stem(name)) in self.files]
        if found:
            return found[0]
        if self.stated(names) == 1:
            raise AnnotationError(
                f"{names[0]}: tumour by --reference, but {self.folder} has no annotations of it, "
                "so its lesions are unknown; add them or leave its map out"
            )
        if self.stated(names) == 0 or self.unannotated_normal:
            return None
        raise AnnotationError(
            f"{names[0]}: {self.folder} has no annotations of it; add {stem(names[0])}.xml or "
            ".json, or say that it is normal with --reference, --normal-prefix or "
            "--unannotated normal"
        )

    def stated(self, names: Sequence[str]) -> int | None:
        """Return the label by table or prefix: 1 tumour, 0 normal, None where neither has it."""
        for name in names:
            for key in (name.casefold(), stem(name)):
                if key in self.labels:
                    return self.labels[key]
        if self.normal_prefix and names[0].casefold().startswith(self.normal_prefix):
            return 0
        return None

    def unused(self, used: Sequence[Path | None]) -> list[str]:
        """Return the names of annotations that no map was compared with."""
        return sorted(path.name for path in self.files.values() if path not in used)


def read_column(path: Path, column: str) -> dict[str, str]:
    """Read a CSV with the columns `slide` and `column`: its values by slide, in lower case.

    Raises DataError: cannot be read, lacks a column or a value, or names a slide twice.
    """
    found: dict[str, str] = {}
    for line, row in read_table(path, ("slide", column)):
        slide, value = ((row[key] or "").strip() for key in ("slide", column))
        if not slide or not value:
            raise DataError(f"{path}: line {line} lacks a slide or its {column}")
        if slide.casefold() in found:
            raise DataError(f"{path}: line {line} has {slide} a second time; keep one")
        found[slide.casefold()] = value
    return found
