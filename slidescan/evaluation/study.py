"""The slides of an evaluation, and the table of their detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import DataError, MapError
from slidescan.evaluation import compare_slide as one
from slidescan.evaluation.compare_slide import Case, SlideChoices
from slidescan.evaluation.paths import stem
from slidescan.evaluation.pixels import Pixels
from slidescan.evaluation.truth import read_column
from slidescan.maps.store import Heatmap
from slidescan.slides.fingerprint import same_slide
from slidescan.tools.csv_tables import write_table
from slidescan.tools.settings_diff import JSON, differences
from slidescan.tools.urls import Place


@dataclass(slots=True)
class Study:
    """The slides compared so far; slides that do not belong together are refused."""

    choices: SlideChoices
    cases: list[Case] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """reason by map"""
    made: Mapping[str, JSON] = field(default_factory=dict)
    """the settings that scores and grid of all maps depend on"""
    pixels: Pixels = field(init=False)
    _seen: dict[str, Place] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pixels = Pixels(self.choices.threshold)

    def admit(self, heatmap: Heatmap) -> None:
        """Refuse a slide that is already there, and a map by another model or of another grid.

        Raises MapError.
        """
        own = heatmap.settings["slide"]["fingerprint"]
        for fingerprint, path in self._seen.items():
            if same_slide(own, fingerprint):
                raise MapError(
                    f"{heatmap.path}: the same slide as {path}, and would count twice; leave one "
                    "out"
                )
        changes = differences(self.made, _made(heatmap)) if self.made else []
        if changes:
            raise MapError(
                f"{heatmap.path}: made with other settings than the maps before it "
                f"({'; '.join(changes)}); evaluate them separately"
            )

    def add(self, heatmap: Heatmap, case: Case, pixels: Pixels) -> None:
        """Keep a comparison. Raises MapError where the annotations are of a slide before it."""
        for other in self.cases:
            if case.annotations and case.annotations == other.annotations:
                raise MapError(
                    f"{heatmap.path}: another slide than {other.map_path}, but {case.annotations} "
                    "would belong to both; rename one slide or evaluate them separately"
                )
        self._seen[heatmap.settings["slide"]["fingerprint"]] = heatmap.path
        self.made = _made(heatmap)
        self.cases.append(case)
        self.pixels.merge(pixels)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(slides,) 1 for tumour."""
        return np.array([case.label for case in self.cases], np.int64)

    @property
    def lesions(self) -> int:
        """The number of lesions to be found."""
        return sum(case.figures.lesions for case in self.cases)


def read_folds(path: Path | None, cases: Sequence[Case]) -> NDArray[np.int64]:
    """Return the fold of each slide from a CSV (slide,fold); without one, a fold each.

    Raises DataError: unreadable, or a slide has no fold.
    """
    if path is None:
        return np.arange(len(cases))
    table = read_column(path, "fold")
    given = []
    for case in cases:
        keys = [key for key in (case.name.casefold(), stem(case.name)) if key in table]
        if not keys:
            raise DataError(f"{path}: has no fold for {case.name}; add it or omit --splits")
        given.append(table[keys[0]])
    return np.unique(given, return_inverse=True)[1].astype(np.int64)


def write_detections(path: Path, cases: Sequence[Case]) -> None:
    """Write a CSV of every detection, see `compare_slide.rows`. Raises WriteError."""
    columns = ("slide", "method", "score", "x_l0", "y_l0", "on")
    write_table(path, columns, (row for case in cases for row in one.rows(case)))


def _made(heatmap: Heatmap) -> dict[str, JSON]:
    """Return the settings that scores and grid depend on: model, averaging, mode, cell size."""
    settings = heatmap.settings
    named = ("model", "tta", "mode")
    kept: dict[str, JSON] = {key: settings[key] for key in named if key in settings}
    return kept | {"um_per_cell": round(heatmap.mpp * heatmap.grid.stride, 6)}
