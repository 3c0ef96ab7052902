"""Which annotations belong to which slide, and what it means that a slide has none.

A missing file never makes a slide normal by itself: it may have been forgotten, renamed or put
elsewhere, and its lesions would become false positives. Somebody has to say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slidescan.errors import AnnotationError, DataError
from slidescan.tools.csv_tables import read_table

SUFFIXES = (".xml", ".json", ".geojson")
_LABELS = {"0": 0, "1": 1, "normal": 0, "tumour": 1, "tumor": 1}


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of all slides. Names are compared without their case."""

    folder: Path
    files: Mapping[str, Path]
    """the annotations by their stem"""
    labels: Mapping[str, int] = field(default_factory=dict)
    """1 for tumour, by the name in the table, with or without the file's ending"""
    normal_prefix: str = ""
    """slides whose name begins so are normal"""
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
        """Look into the folder and the table. Raises AnnotationError, DataError."""
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
        return cls(folder, _files(folder), labels, normal_prefix.casefold(), unannotated_normal)

    def file(self, names: Sequence[str]) -> Path | None:
        """The annotations of a slide by one of its names, the first that there are any of.

        None for a slide that is normal by what was said of it. Raises AnnotationError.
        """
        found = [self.files[key] for name in names if (key := stem(name)) in self.files]
        if found:
            return found[0]
        if self.stated(names) == 1:
            raise AnnotationError(
                f"{names[0]}: tumour by the reference, but {self.folder} has no annotations of "
                "it, so its lesions are unknown; add them or leave its map out"
            )
        if self.stated(names) == 0 or self.unannotated_normal:
            return None
        raise AnnotationError(
            f"{names[0]}: {self.folder} has no annotations of it; add {stem(names[0])}.xml or "
            ".json, or say that it is normal with --reference, --normal-prefix or "
            "--unannotated normal"
        )

    def stated(self, names: Sequence[str]) -> int | None:
        """What table or prefix say of a slide: 1 tumour, 0 normal, None nothing."""
        for name in names:
            for key in (name.casefold(), stem(name)):
                if key in self.labels:
                    return self.labels[key]
        if self.normal_prefix and names[0].casefold().startswith(self.normal_prefix):
            return 0
        return None

    def unused(self, used: Sequence[Path | None]) -> list[str]:
        """Names of annotations that no map was compared with."""
        return sorted(path.name for path in self.files.values() if path not in used)


def stem(name: str) -> str:
    """A slide's name without the file's ending, in one case."""
    return Path(name).stem.casefold()


def read_column(path: Path, column: str) -> dict[str, str]:
    """A CSV with the columns `slide` and `column`: its values by the slide, in lower case.

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


def _files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise AnnotationError(
            f"{folder}: not a folder of annotations ({error.strerror}); correct --annotations"
        ) from error
    for path in paths:
        other = found.setdefault(stem(path.name), path)
        if other != path:
            raise AnnotationError(
                f"{folder}: {other.name} and {path.name} are of the same slide; keep one"
            )
    if not found:
        raise AnnotationError(
            f"{folder}: has no annotations ({', '.join(SUFFIXES)}); correct --annotations"
        )
    return found
