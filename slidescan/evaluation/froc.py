"""Lesion-level FROC as Camelyon16 scores it: how many lesions at how many false alarms a slide.

The challenge's script (Evaluation_FROC.py by B. Ehteshami Bejnordi; Ehteshami Bejnordi et al.
2017, JAMA 318:2199, "task 1") step by step, and who does the step here:

1. Cells whose centre is less than 75/2 um from a tumour cell's join it, holes are filled, and
   what touches by side or corner is one lesion: lesions closer than 75 um are one. Here
   (`lesions`): monai.metrics starts from such a mask and makes none.
2. A lesion whose major axis (skimage's, of the ellipse with the same second moments) is below
   275 um is isolated tumour cells: 200 um and the 75 um it has grown by. Here as well.
3. A detection scores for the lesion on whose label it lies; a lesion keeps its highest score, one
   never hit keeps 0. Detections on isolated tumour cells count as nothing, all others are false.
   `monai.metrics.compute_fp_tp_probs` does the same, and does it here.
4. At every distinct score but the lowest: false positives a slide, over all slides, and the share
   of lesions found. `monai.metrics.compute_froc_curve_data` does the same. Leaving the lowest out
   drops the 0 of what was missed; where every lesion of every slide was hit and none was isolated
   cells, it drops a real score, and a perfect detector that always says 0.9 would score 0. A 0 is
   therefore added to the scores; in every other case it is there already and changes nothing.
5. Sensitivity at 1/4, 1/2, 1, 2, 4 and 8 false positives a slide, interpolated linearly and level
   beyond the last point, and the mean of the six. `monai.metrics.compute_froc_score`.

monai.apps.pathology has steps 1 and 2 as well, for a whole slide at once and with a name of
skimage's that is going to be removed; the tests hold `lesions` to it.

The script works at level 5 of 0.243 um/px, 7.776 um: just a map's cells at stride 8 and
0.972 um/px. On a coarser grid steps 1 and 2 round to that grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slidescan.evaluation.detections import EVERY_NEIGHBOUR, Detections, regions
from slidescan.statistics.arrays import Counts, Floats
from slidescan.statistics.bootstrap import RESAMPLES, Interval, bootstrap
from slidescan.statistics.curves import FROC_RATES as RATES
from slidescan.statistics.curves import Froc

MERGE_UM = 75.0
"""Lesions closer than this are one: "the equivalent size of 5 tumor cells"."""

ITC_UM = 275.0
"""Below this major axis, after growing, a lesion is isolated tumour cells."""


@dataclass(frozen=True, slots=True)
class Lesions:
    """What is to be found on one slide."""

    labels: NDArray[np.int32]
    """(rows, columns): the number of the lesion on each cell, from 1; 0 elsewhere"""
    axes_um: tuple[float, ...]
    """the major axis of lesion 1, 2, ..., grown by 75 um as it is"""

    @property
    def itc(self) -> list[int]:
        """Labels of isolated tumour cells, which are neither to be found nor held against one."""
        return [i for i, axis in enumerate(self.axes_um, start=1) if axis < ITC_UM]

    @property
    def count(self) -> int:
        """Lesions to be found."""
        return len(self.axes_um) - len(self.itc)


@dataclass(frozen=True, slots=True)
class Scored:
    """What one slide's detections add to the curve."""

    false: NDArray[np.float32]
    """of every false positive"""
    found: NDArray[np.float32]
    """the highest of each lesion that is to be found, 0 where it was missed"""


def lesions(tumour: NDArray[np.bool_], um_per_cell: float) -> Lesions:
    """Steps 1 and 2: from the annotated cells (rows, columns) to numbered lesions.

    Only the part around the tumour is worked on, and it is worked on as the whole would be.
    """
    labels = np.zeros(tumour.shape, np.int32)
    part = _around(tumour, math.ceil(MERGE_UM / 2 / um_per_cell) + 1)
    if part is None:
        return Lesions(labels, ())
    distance_um = ndimage.distance_transform_edt(~tumour[part], sampling=um_per_cell)
    filled = ndimage.binary_fill_holes(distance_um < MERGE_UM / 2)
    labels[part] = ndimage.label(filled, EVERY_NEIGHBOUR)[0]
    axes = (float(region.axis_major_length) for region in regions(labels[part]))
    return Lesions(labels, tuple(axis * um_per_cell for axis in axes))


def score(detections: Detections, truth: Lesions) -> Scored:
    """Step 3: which detections are false, and the best of each lesion."""
    from monai.metrics.froc import compute_fp_tp_probs

    false, found, _ = compute_fp_tp_probs(
        detections.scores, detections.rows, detections.columns, truth.labels, truth.itc
    )
    wanted = np.delete(np.asarray(found), np.array(truth.itc, int) - 1)
    return Scored(np.asarray(false, np.float32), wanted.astype(np.float32))


def froc(slides: Sequence[Scored]) -> Froc:
    """Steps 4 and 5 over all slides, those without lesions included."""
    from monai.metrics.froc import compute_froc_curve_data, compute_froc_score

    false = np.concatenate([slide.false for slide in slides])
    found = np.concatenate([slide.found for slide in slides])
    if not len(found):
        nothing = np.empty(0)
        return Froc(nothing, nothing, np.full(len(RATES), np.nan), math.nan)
    rates, sensitivity = compute_froc_curve_data(
        false, np.append(found, np.float32(0)), len(found), len(slides)
    )
    at = [compute_froc_score(rates, sensitivity, (rate,)) for rate in RATES]
    mean = float(compute_froc_score(rates, sensitivity, RATES))
    return Froc(rates[::-1], sensitivity[::-1], np.array(at), mean)


def intervals(
    slides: Sequence[Scored],
    resamples: int = RESAMPLES,
    seed: int = 0,
    on_resample: Callable[[], object] = lambda: None,
) -> list[Interval]:
    """The six sensitivities, their mean, and the percentile interval of each; slides are drawn.

    As in the JAMA paper. Draws without a lesion are left out and counted. Where fewer than two
    slides have lesions there is no interval: one alone says nothing of others.
    """
    curve = Weighted(slides)
    if np.count_nonzero(curve.wanted) < 2:
        resamples = 0
    return bootstrap(curve.at, len(slides), resamples, seed, on_resample=on_resample)


class Weighted:
    """`froc` where each slide counts several times: sorted once, for many replicates.

    The same numbers as monai's on slides repeated as often (the tests hold it to that); monai
    counts anew at every score, which is a quadratic number of steps in each replicate.
    """

    def __init__(self, slides: Sequence[Scored]) -> None:
        self.wanted = np.array([len(slide.found) for slide in slides])
        false = np.concatenate([slide.false for slide in slides])
        found = np.concatenate([slide.found for slide in slides])
        self.of_false = np.repeat(np.arange(len(slides)), [len(s.false) for s in slides])
        self.of_found = np.repeat(np.arange(len(slides)), self.wanted)
        # The lowest is 0, of a lesion missed, and is no point of the curve.
        levels, place = np.unique(np.concatenate([[0], false, found]), return_inverse=True)
        self.levels = len(levels)
        self.at_false, self.at_found = np.split(place[1:], [len(false)])

    def at(self, times: Counts) -> Floats:
        """Sensitivity at `RATES`, and the mean, with slide i counted `times[i]` times; (7,)."""
        wanted = (times * self.wanted).sum()
        if not wanted:
            return np.full(len(RATES) + 1, np.nan)
        false = self._from(self.at_false, times[self.of_false]) / times.sum()
        found = self._from(self.at_found, times[self.of_found]) / wanted
        at = np.interp(RATES, false, found)
        return np.append(at, at.mean())

    def _from(self, place: NDArray[np.intp], times: Counts) -> Floats:
        """How many lie at each level or above, from the highest level down; 0 before it."""
        counts = np.bincount(place, times, self.levels)[1:]
        return np.concatenate([[0], np.cumsum(counts[::-1])])


def _around(tumour: NDArray[np.bool_], reach: int) -> tuple[slice, slice] | None:
    """The rows and columns that hold tumour, and `reach` cells beyond; None without tumour."""
    parts = []
    for axis, size in zip((1, 0), tumour.shape, strict=True):
        there = np.flatnonzero(tumour.any(axis=axis))
        if not len(there):
            return None
        parts.append(slice(max(0, there[0] - reach), min(size, there[-1] + reach + 1)))
    return parts[0], parts[1]
