"""Compare the map of one slide with its annotations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from slidescan.annotations.rasters import rasterise
from slidescan.annotations.reading import load_annotations
from slidescan.errors import AnnotationError, MapError
from slidescan.evaluation.detections import (
    RADIUS_UM,
    THRESHOLD,
    Detections,
    components,
    suppress,
)
from slidescan.evaluation.froc import Scored, lesions, score
from slidescan.evaluation.pixels import Pixels
from slidescan.evaluation.slide_level import features
from slidescan.evaluation.truth import Truth
from slidescan.geometry import Box
from slidescan.maps.ngff import halve
from slidescan.maps.store import Heatmap
from slidescan.tools.urls import Place

METHODS = {"nms": "non-maximum suppression", "components": "connected components"}

PART_CELLS = 2048
"""Side of a part of the map that is read at once."""


@dataclass(frozen=True, slots=True)
class SlideChoices:
    """How maps become detections, and slides tumour or normal."""

    threshold: float = THRESHOLD
    """for detections and Dice"""
    radius_um: float = RADIUS_UM
    um_per_px: float | None = None
    """the grid of the evaluation; None: the map's own cells"""
    itc_normal: bool = False
    """slides that have only isolated tumour cells count as normal"""
    partial: bool = False
    """unfinished maps are evaluated as they are"""
    tumour_classes: tuple[str, ...] = ()
    """further names of the tumour's class in annotations"""


@dataclass(frozen=True, slots=True)
class Figures:
    """The comparison of one map with its annotations, in cells and um."""

    axes_um: tuple[float, ...]
    """the major axis of each lesion, including isolated tumour cells"""
    itc: tuple[int, ...]
    """the numbers of the isolated tumour cells, from 1"""
    detections: dict[str, Detections]
    """by method"""
    hits: dict[str, NDArray[np.int32]]
    """the lesion that each detection lies on, 0 for none"""
    scored: dict[str, Scored]
    features: dict[str, float]
    cells: dict[str, float]
    """Dice, AUC and average precision of the cells, and the share of tumour not scanned"""

    @property
    def lesions(self) -> int:
        """The number of lesions to be found."""
        return len(self.axes_um) - len(self.itc)


@dataclass(frozen=True, slots=True)
class Case:
    """One slide of an evaluation."""

    name: str
    map_path: Place
    annotations: Path | None
    um_per_cell: float
    pitch_l0: tuple[float, float]
    """level-0 px per cell, (y, x)"""
    scanned: float
    """share of the cells selected for scanning that have a value"""
    label: int
    """1 for tumour"""
    figures: Figures
    problems: tuple[str, ...]
    """a line each"""


def names(heatmap: Heatmap) -> tuple[str, str]:
    """Return the name of the slide's file as the map records it, and the map's name."""
    return str(heatmap.provenance.get("slide") or heatmap.path.name), heatmap.path.name


def judge(
    values: NDArray[np.float32],
    tumour: NDArray[np.bool_],
    um_per_cell: float,
    choices: SlideChoices,
) -> tuple[Figures, Pixels]:
    """Compare a map with the annotated cells, both (rows, columns); also count its cells."""
    wanted = lesions(tumour, um_per_cell)
    found = {
        "nms": suppress(values, um_per_cell, choices.radius_um, choices.threshold),
        "components": components(values, choices.threshold),
    }
    pixels = Pixels(choices.threshold)
    pixels.add(values, tumour)
    figures = Figures(
        axes_um=wanted.axes_um,
        itc=tuple(wanted.itc),
        detections=found,
        hits={method: wanted.labels[d.rows, d.columns] for method, d in found.items()},
        scored={method: score(d, wanted) for method, d in found.items()},
        features=features(values, um_per_cell),
        cells=_own(pixels),
    )
    return figures, pixels


def evaluate(heatmap: Heatmap, truth: Truth, choices: SlideChoices) -> tuple[Case, Pixels]:
    """Compare a map with the annotations and the label of its slide.

    Raises:
        MapError: unfinished without `choices.partial`, or unreadable.
        AnnotationError: missing, unreadable, or in contradiction to the stated label.
    """
    if not heatmap.complete and not choices.partial:
        raise MapError(
            f"{heatmap.path}: not finished; run the same slidescan heatmap again to resume it, or "
            "evaluate the finished part with --partial"
        )
    called = names(heatmap)
    source = truth.file(called)
    stated = truth.stated(called)
    polygons, problems = _polygons(source, heatmap, stated, choices.tumour_classes)
    halvings = _halvings(heatmap, choices.um_per_px)
    values, scanned = read(heatmap, halvings)
    um = heatmap.mpp * heatmap.grid.stride * 2**halvings
    pitch = _pitch_l0(heatmap, um)
    tumour = rasterise(polygons, values.shape, pitch[::-1])
    figures, pixels = judge(values, tumour, um, choices)
    _check(stated, bool(polygons), figures, called[0], source)
    if stated is None:
        stated = int(figures.lesions > 0 if choices.itc_normal else bool(polygons))
    if polygons and not figures.axes_um:
        problems.append(f"the annotated tumour covers no centre of a {um:.3g} um cell")
    if not heatmap.complete:
        problems.append(f"unfinished: only {scanned:.1%} of its cells are scanned and count")
    if not pixels.cells:
        problems.append("nothing was scanned: all features are 0")
    case = Case(
        called[0], heatmap.path, source, um, pitch, scanned, stated, figures, tuple(problems)
    )
    return case, pixels


def read(heatmap: Heatmap, halvings: int) -> tuple[NDArray[np.float32], float]:
    """Return the map coarsened by 2**halvings a side, and the share of its cells that is scanned.

    A coarse cell is the mean of the finite cells in it, as in the levels that a finished map has.
    The map is read in parts, so that the fine map is never whole in memory.
    """
    rows, columns = heatmap.grid.shape
    side = 2**halvings
    values = np.full((-(-rows // side), -(-columns // side)), np.nan, np.float32)
    finite = 0
    for box in heatmap.grid.cells.split(PART_CELLS):
        part = heatmap.read(box)
        finite += int(np.count_nonzero(np.isfinite(part)))
        for _ in range(halvings):
            part = halve(part)
        y, x = box.y0 // side, box.x0 // side
        values[Box(y, x, y + part.shape[0], x + part.shape[1]).slices] = part
    return values, finite / max(1, int(heatmap.mask.sum()))


def rows(case: Case) -> Iterator[tuple[object, ...]]:
    """Yield (slide, method, score, x, y, on) of each detection in level-0 px, the best first.

    on: "lesion 2", "isolated cells", or "" for a false positive.
    """
    y_pitch, x_pitch = case.pitch_l0
    figures = case.figures
    for method, found in figures.detections.items():
        points = zip(found.rows, found.columns, found.scores, figures.hits[method], strict=True)
        for row, column, value, hit in points:
            on = "isolated cells" if hit in figures.itc else f"lesion {hit}" if hit else ""
            x, y = (column + 0.5) * x_pitch, (row + 0.5) * y_pitch
            yield case.name, method, f"{value:.6g}", f"{x:.0f}", f"{y:.0f}", on


def _halvings(heatmap: Heatmap, um_per_px: float | None) -> int:
    """Return how often the map is halved to be as coarse as wanted and not coarser."""
    cell_um = heatmap.mpp * heatmap.grid.stride
    if um_per_px is None:
        return 0
    # Tolerates rounding: 7.776 um is meant to equal a map's 7.776 um exactly.
    halvings = math.floor(math.log2(um_per_px / cell_um) + 1e-3)
    if halvings < 0:
        raise MapError(
            f"{heatmap.path}: its cells are {cell_um:.4g} um, so it cannot be evaluated at "
            f"--um-per-px {um_per_px:g}; pass {cell_um:.4g} or more, or omit it"
        )
    return min(halvings, PART_CELLS.bit_length() - 1)


def _pitch_l0(heatmap: Heatmap, um: float) -> tuple[float, float]:
    """Level-0 px per cell, (y, x). Cell (0, 0) begins at level-0 (0, 0), in MIRAX slides too."""
    y, x = heatmap.settings["slide"]["mpp"]
    return um / y, um / x


def _polygons(
    source: Path | None, heatmap: Heatmap, stated: int | None, tumour_classes: Sequence[str]
) -> tuple[list[shapely.Polygon], list[str]]:
    """Return the annotated tumour, and the problems of the annotations.

    Raises AnnotationError where there is no tumour, but something that may be tumour by another
    name: as a normal slide it would hide its lesions from the FROC.
    """
    if source is None:
        return [], []
    height, width = heatmap.settings["slide"]["extent_l0"]
    found = load_annotations(source, (width, height), tumour_classes)
    odd = [f"{source.name}: {problem}" for problem in found.problems]
    slide = names(heatmap)[0]
    if source.stem.casefold() != Path(slide).stem.casefold():
        odd.append(f"compared with {source.name} by the map's name, but made from {slide}")
    polygons = found.tumour()
    if found.not_used:
        if not polygons and stated != 0:
            raise AnnotationError(
                f"{slide}: {source} has no tumour, but {found.describe_not_used()}; name the class "
                "that is tumour with --tumour-class, or state that the slide is normal with "
                "--reference or --normal-prefix"
            )
        odd.append(f"{source.name}: not counted as tumour: {found.describe_not_used()}")
    if not polygons:
        odd.append(f"{source.name}: no tumour in it, so the slide counts as normal")
    return polygons, odd


def _check(
    stated: int | None, annotated: bool, found: Figures, name: str, source: Path | None
) -> None:
    """Refuse annotations that contradict the stated label; isolated cells do not."""
    if source is None:
        return
    if stated == 0 and found.lesions:
        raise AnnotationError(
            f"{name}: normal by --reference or --normal-prefix, but {source} has {found.lesions} "
            "lesions; correct one of them"
        )
    if stated == 1 and not annotated:
        raise AnnotationError(
            f"{name}: tumour by --reference, but {source} has none; correct one of them"
        )


def _own(pixels: Pixels) -> dict[str, float]:
    """Return the figures of the cells of one slide."""
    tumour = int(pixels.confusion[1].sum()) + pixels.unscanned
    return {
        "dice": pixels.dice,
        "auc": pixels.roc().area,
        "average_precision": pixels.precision_recall().area,
        "unscanned_tumour": pixels.unscanned / tumour if tumour else 0.0,
    }
