"""Lesion-level FROC of Camelyon16: lesions found against false positives per slide.

The steps are those of the challenge's script (Evaluation_FROC.py by B. Ehteshami Bejnordi;
Ehteshami Bejnordi et al. 2017, JAMA 318:2199, "task 1"):

1. Cells whose centre is less than 75/2 um from that of a tumour cell join it, holes are filled, and
   cells that touch by side or corner are one lesion. Lesions closer than 75 um thus become one.
   `lesions` does this; monai.metrics expects such a mask.
2. A lesion whose major axis (skimage's, of the ellipse with the same second moments) is below
   275 um is isolated tumour cells: 200 um, and 75 um of growth in step 1. `lesions` does this too.
3. A detection on a lesion counts for it. A lesion keeps its highest score; a lesion that was missed
   keeps 0. Detections on isolated tumour cells are ignored; all others are false positives.
   By `monai.metrics.compute_fp_tp_probs`.
4. For every distinct score except the lowest: false positives per slide, over all slides, and the
   share of lesions found. By `monai.metrics.compute_froc_curve_data`. Leaving out the lowest score
   drops the 0 of missed lesions. Where no lesion was missed and there are no isolated cells, it
   drops a real score, and a perfect detector whose scores are all 0.9 would get 0. Therefore a 0 is
   added to the scores here. In every other case a 0 is there already, and another changes nothing.
5. Sensitivity at 1/4, 1/2, 1, 2, 4 and 8 false positives per slide, interpolated linearly and
   constant beyond the last point, and the mean of the six. By `monai.metrics.compute_froc_score`.

monai.apps.pathology also has steps 1 and 2, for a whole slide at once and with a deprecated name of
skimage; the tests compare `lesions` with it.

The script works at level 5 of 0.243 um/px, which is 7.776 um: exactly the cells of a map with
stride 8 at 0.972 um/px. On a coarser grid steps 1 and 2 round to that grid.
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
"""Lesions closer than this are one; in the script "the equivalent size of 5 tumor cells"."""

ITC_UM = 275.0
"""A lesion with a smaller major axis, after growing, is isolated tumour cells."""


@dataclass(frozen=True, slots=True)
class Lesions:
    """The lesions of one slide."""

    labels: NDArray[np.int32]
    """(rows, columns): the number of the lesion on each cell, from 1; 0 elsewhere"""
    axes_um: tuple[float, ...]
    """the major axis of lesion 1, 2, ..., after growing by 75 um"""

    @property
    def itc(self) -> list[int]:
        """Numbers of isolated tumour cells, which count neither as lesions nor as normal."""
        return [i for i, axis in enumerate(self.axes_um, start=1) if axis < ITC_UM]

    @property
    def count(self) -> int:
        """The number of lesions to be found."""
        return len(self.axes_um) - len(self.itc)


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores that one slide adds to the curve."""

    false: NDArray[np.float32]
    """of every false positive"""
    found: NDArray[np.float32]
    """the highest score of each lesion to be found, 0 where it was missed"""


def lesions(tumour: NDArray[np.bool_], um_per_cell: float) -> Lesions:
    """Do steps 1 and 2: number the lesions of the annotated cells (rows, columns).

    Only the part around the tumour is computed; the result is that of the whole.
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
    """Do step 3: find the false positives, and the best score of each lesion."""
    from monai.metrics.froc import compute_fp_tp_probs

    false, found, _ = compute_fp_tp_probs(
        detections.scores, detections.rows, detections.columns, truth.labels, truth.itc
    )
    wanted = np.delete(np.asarray(found), np.array(truth.itc, int) - 1)
    return Scored(np.asarray(false, np.float32), wanted.astype(np.float32))


def froc(slides: Sequence[Scored]) -> Froc:
    """Do steps 4 and 5 over all slides, including those without lesions."""
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
    """Return the six sensitivities and their mean, with percentile intervals over slides.

    As in the JAMA paper. Resamples without a lesion are left out and counted. There is no interval
    where fewer than two slides have lesions.
    """
    curve = ResampledFroc(slides)
    if np.count_nonzero(curve.wanted) < 2:
        resamples = 0
    return bootstrap(curve.at, len(slides), resamples, seed, on_resample=on_resample)


class ResampledFroc:
    """`froc` for slides drawn several times; scores are sorted once for all resamples.

    Equal to monai's result on repeated slides, as the tests check. monai counts again at every
    score, which takes a quadratic number of steps in each resample.
    """

    def __init__(self, slides: Sequence[Scored]) -> None:
        self.wanted = np.array([len(slide.found) for slide in slides])
        false = np.concatenate([slide.false for slide in slides])
        found = np.concatenate([slide.found for slide in slides])
        self.of_false = np.repeat(np.arange(len(slides)), [len(s.false) for s in slides])
        self.of_found = np.repeat(np.arange(len(slides)), self.wanted)
        # The lowest level is the 0 of missed lesions, which is not a point of the curve.
        levels, place = np.unique(np.concatenate([[0], false, found]), return_inverse=True)
        self.levels = len(levels)
        self.at_false, self.at_found = np.split(place[1:], [len(false)])

    def at(self, times: Counts) -> Floats:
        """Return sensitivities and their mean, (7,), with slide i drawn `times[i]` times."""
        wanted = (times * self.wanted).sum()
        if not wanted:
            return np.full(len(RATES) + 1, np.nan)
        false = self._from(self.at_false, times[self.of_false]) / times.sum()
        found = self._from(self.at_found, times[self.of_found]) / wanted
        at = np.interp(RATES, false, found)
        return np.append(at, at.mean())

    def _from(self, place: NDArray[np.intp], times: Counts) -> Floats:
        """Count the scores at each level or above, from the highest level down; starts with 0."""
        counts = np.bincount(place, times, self.levels)[1:]
        return np.concatenate([[0], np.cumsum(counts[::-1])])


def _around(tumour: NDArray[np.bool_], reach: int) -> tuple[slice, slice] | None:
    """Return rows and columns with tumour, and `reach` cells beyond; None without tumour."""
    parts = []
    for axis, size in zip((1, 0), tumour.shape, strict=True):
        there = np.flatnonzero(tumour.any(axis=axis))
        if not len(there):
            return None
        parts.append(slice(max(0, there[0] - reach), min(size, there[-1] + reach + 1)))
    return parts[0], parts[1]
