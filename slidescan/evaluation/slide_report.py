"""Report on all slides of an evaluation: lesions, slides and cells, with pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.evaluation import slide_level
from slidescan.evaluation.compare_slide import METHODS, Case
from slidescan.evaluation.froc import froc, intervals
from slidescan.evaluation.pixels import thinned
from slidescan.evaluation.report import Metric, Report, known
from slidescan.evaluation.study import Study
from slidescan.pictures import diagrams, slide_curves
from slidescan.statistics.bootstrap import FEW, Interval, bootstrap
from slidescan.statistics.curves import FROC_RATES, Froc, roc
from slidescan.statistics.ranking import Curve
from slidescan.tools.settings_diff import JSON

ONE_CLASS = "needs tumour and normal slides"
RULES = {
    "maximum": "maximum of the map",
    "top_100_mean": f"mean of the {slide_level.TOP_CELLS} highest cells",
    "largest_area_mm2_0.5": "area of the largest region from 0.5 up",
    slide_level.FOREST: f"random forest, {len(slide_level.FEATURES)} features",
}


@dataclass(frozen=True, slots=True)
class Findings:
    """The report, and the curves behind it for the pictures."""

    report: Report
    curves: dict[str, Froc]
    """by method"""
    bands: dict[str, list[Interval]]
    scores: dict[str, NDArray[np.float64]]
    """of each slide, by rule"""


def summarise(
    study: Study,
    folds: NDArray[np.int64],
    resamples: int,
    seed: int,
    on_step: Callable[[], object] = lambda: None,
) -> Findings:
    """Compute every figure; `on_step` is called `steps` times."""
    curves, bands = {}, {}
    for method in METHODS:
        scored = [case.figures.scored[method] for case in study.cases]
        curves[method] = froc(scored)
        bands[method] = intervals(scored, resamples, seed, on_step)
    scores = _scores(study, folds, seed, on_step)
    rules = slide_level.Auc(study.labels, np.array(list(scores.values())))
    aucs = bootstrap(rules.at, len(study.cases), resamples, seed, on_resample=on_step)
    why = slide_level.too_few(study.labels, folds)
    metrics = [
        *(m for method in METHODS for m in _froc_metrics(method, bands[method], resamples)),
        *_slide_metrics(list(scores), aucs, why, resamples),
        *_pixel_metrics(study),
    ]
    report = Report(
        "Slides against their annotations",
        _about(study, folds, resamples, seed),
        metrics,
        [*_intervals(study, resamples, seed)],
        details=[*_details(study)],
        tables=_tables(study, curves, scores),
    )
    return Findings(report, curves, bands, scores)


def steps(study: Study, folds: NDArray[np.int64], resamples: int) -> int:
    """Return an upper bound of the steps of `summarise`."""
    return len(np.unique(folds)) + (len(METHODS) + 1) * resamples


def draw(folder: Path, study: Study, findings: Findings) -> None:
    """Write froc.png, slides.png and cells.png. Raises WriteError."""
    count = f"{len(study.cases)} slides, {study.lesions} lesions"
    drawn = {METHODS[m]: (curve, findings.bands[m]) for m, curve in findings.curves.items()}
    slide_curves.froc(folder / "froc.png", drawn, f"Lesions found, {count}")
    curves = {RULES[rule]: _roc(study, s) for rule, s in findings.scores.items()}
    diagrams.roc_curves(
        folder / "slides.png", curves, f"Tumour on the slide, {count}", f"undefined: {ONE_CLASS}"
    )
    cells = study.pixels
    title = f"Cells of {study.cases[0].um_per_cell:.4g} um, {cells.cells:,} scanned"
    slide_curves.cells(
        folder / "cells.png",
        thinned(cells.roc()),
        thinned(cells.precision_recall()),
        cells.confusion,
        title,
    )


def _roc(study: Study, scores: NDArray[np.float64]) -> Curve:
    if np.isnan(scores).any():
        return Curve(np.empty(0), np.empty(0), math.nan)
    return roc(study.labels, scores)


def _scores(
    study: Study, folds: NDArray[np.int64], seed: int, on_fold: Callable[[], object]
) -> dict[str, NDArray[np.float64]]:
    """Return the score of each slide by each rule."""
    table = np.array([[c.figures.features[f] for f in slide_level.FEATURES] for c in study.cases])
    alone = {name: table[:, list(slide_level.FEATURES).index(name)] for name in slide_level.ALONE}
    trees = slide_level.forest(table, study.labels, folds, seed, on_fold)
    return {**alone, slide_level.FOREST: trees}


def _froc_metrics(method: str, found: Sequence[Interval], resamples: int) -> Iterator[Metric]:
    why = "no lesion to find" if math.isnan(found[-1].value) else ""
    *at, mean = found
    yield _metric(f"froc_{method}", f"FROC score, {METHODS[method]}", mean, why, resamples)
    for rate, interval in zip(FROC_RATES, at, strict=True):
        name = f"Sensitivity at {rate:g} false positives per slide, {METHODS[method]}"
        yield _metric(f"froc_{method}_at_{rate:g}", name, interval, why, resamples)


def _slide_metrics(
    rules: list[str], aucs: list[Interval], why: str, resamples: int
) -> Iterator[Metric]:
    for rule, interval in zip(rules, aucs, strict=True):
        undefined = ONE_CLASS if math.isnan(interval.value) else ""
        if rule == slide_level.FOREST and undefined:
            undefined = why or undefined
        yield _metric(
            f"slide_auc_{rule}", f"Slide AUC, {RULES[rule]}", interval, undefined, resamples
        )


def _pixel_metrics(study: Study) -> Iterator[Metric]:
    cells, none = study.pixels, "no tumour cell was scanned"
    dice = f"Cell Dice at {study.choices.threshold:g}"
    note = "no tumour, and none was called" if math.isnan(cells.dice) else _unscanned(study)
    yield Metric("cell_dice", dice, cells.dice, note=note)
    own = [case.figures.cells["dice"] for case in study.cases if case.label]
    mean = float(np.mean(own)) if own else math.nan
    yield _plain("cell_dice_mean", f"{dice}, mean of tumour slides", mean, "no tumour slide")
    yield _plain("cell_auc", "Cell ROC AUC", cells.roc().area, "cells of one class")
    area = cells.precision_recall().area
    yield _plain("cell_average_precision", "Cell average precision", area, none)


def _unscanned(study: Study) -> str:
    """Return how much of the annotated tumour the figures of cells leave out."""
    missed = study.pixels.unscanned
    if not missed:
        return ""
    share = missed / (missed + study.pixels.confusion[1].sum())
    return f"without {share:.1%} of the annotated tumour, which was not scanned"


def _metric(key: str, name: str, interval: Interval, undefined: str, resamples: int) -> Metric:
    note = undefined
    if not note and interval.undefined:
        note = f"undefined in {interval.undefined} of {resamples} resamples, which are left out"
    return Metric(key, name, interval.value, interval.low, interval.high, note)


def _plain(key: str, name: str, value: float, undefined: str) -> Metric:
    return Metric(key, name, value, note=undefined if math.isnan(value) else "")


def _about(study: Study, folds: NDArray[np.int64], resamples: int, seed: int) -> dict[str, JSON]:
    choices, cases = study.choices, study.cases
    normal, tumour = np.bincount(study.labels, minlength=2).tolist()
    alone = len(np.unique(folds)) == len(cases)
    return {
        "slides": len(cases),
        "tumour_slides": tumour,
        "normal_slides": normal,
        "failed_slides": len(study.failed),
        "lesions": study.lesions,
        "isolated_tumour_cells": sum(len(case.figures.itc) for case in cases),
        "um_per_cell": round(cases[0].um_per_cell, 6),
        "detection_threshold": choices.threshold,
        "suppression_radius_um": choices.radius_um,
        "slides_with_isolated_cells_alone": "normal" if choices.itc_normal else "tumour",
        "forest": "leave-one-out" if alone else f"{len(np.unique(folds))} folds",
        **{key: value for key, value in study.made.items() if key != "um_per_cell"},
        "resamples": resamples,
        "seed": seed,
    }


def _intervals(study: Study, resamples: int, seed: int) -> Iterator[str]:
    """Yield how the intervals were made, and whether there are enough slides for them."""
    if not resamples:
        return
    yield f"Intervals: percentile bootstrap, {resamples} resamples of slides, seed {seed}."
    units = len(study.cases)
    if units < FEW:
        yield f"{units} slides give intervals that are too narrow; use at least {FEW}."


def _details(study: Study) -> Iterator[str]:
    """Yield how lesions are counted, and the problems of single slides."""
    yield (
        "Camelyon16's FROC: lesions closer than 75 um are one; isolated tumour cells (major axis "
        "below 275 um after growing) count neither way; sensitivities are interpolated."
    )
    for case in study.cases:
        for problem in case.problems:
            yield f"{case.name}: {problem}"
    for path, reason in study.failed.items():
        yield f"Left out: {path}: {reason}"


def _tables(
    study: Study, curves: Mapping[str, Froc], scores: Mapping[str, NDArray[np.float64]]
) -> dict[str, JSON]:
    return {
        "froc_curves": {
            method: {
                "false_positives_per_slide": curve.rates.tolist(),
                "sensitivity": curve.sensitivity.tolist(),
            }
            for method, curve in curves.items()
        },
        "features": slide_level.FEATURES,
        "per_slide": [
            _row(case, {rule: float(s[i]) for rule, s in scores.items()})
            for i, case in enumerate(study.cases)
        ],
        "failed": study.failed,
    }


def _row(case: Case, scores: Mapping[str, float]) -> dict[str, JSON]:
    return {
        "slide": case.name,
        "map": case.map_path.name,
        "annotations": case.annotations.name if case.annotations else None,
        "label": case.label,
        "scanned_share": case.scanned,
        "lesions": _found(case),
        "false_positives": {method: len(case.figures.scored[method].false) for method in METHODS},
        "scores": {rule: known(value) for rule, value in scores.items()},
        "cells": {name: known(value) for name, value in case.figures.cells.items()},
        "features": case.figures.features,
        "problems": list(case.problems),
    }


def _found(case: Case) -> list[JSON]:
    """Return each lesion with its number in detections.csv and the score it was found with."""
    itc, axes = case.figures.itc, enumerate(case.figures.axes_um, start=1)
    # By method, and only for lesions to be found.
    scores = {method: iter(case.figures.scored[method].found.tolist()) for method in METHODS}
    return [
        {
            "number": number,
            "major_axis_um": axis,
            "isolated_cells": number in itc,
            "score": None
            if number in itc
            else {method: next(found) or None for method, found in scores.items()},
        }
        for number, axis in axes
    ]
