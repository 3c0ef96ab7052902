"""Classify slides by features of their maps, one by one and with a random forest.

The winners of Camelyon16 gave 28 features of a heatmap to a random forest (Wang et al. 2016,
arXiv:1606.05718). The four that they name are included: the share of tumour in the tissue, the area
of a region over that of its convex hull, the mean prediction, the longest axis. The others are
similar ones of our own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from slidescan.evaluation.detections import label, regions
from slidescan.statistics.arrays import Counts, Floats, Labels
from slidescan.statistics.ranking import Ranking, roc_area

TOP_CELLS = 100
AREAS = (0.5, 0.6, 0.7, 0.8, 0.9)
REGIONS = (0.5, 0.9)
TREES = 100

_OF_LARGEST = {
    "largest_area_mm2": "area of the largest region",
    "largest_major_axis_um": "major axis of its ellipse",
    "largest_eccentricity": "eccentricity of its ellipse",
    "largest_extent": "share of its bounding box that it fills",
    "largest_solidity": "share of its convex hull that it fills",
    "largest_mean": "mean probability in it",
    "largest_maximum": "maximum probability in it",
}

FEATURES: dict[str, str] = {
    "maximum": "the highest probability",
    "top_100_mean": f"mean of the {TOP_CELLS} highest cells",
    "mean": "mean over all cells scanned",
    **{f"area_mm2_{t:g}": f"area from {t:g} up" for t in AREAS},
    **{f"share_{t:g}": "the same as a share of what was scanned" for t in AREAS},
    **{f"regions_{t:g}": f"connected regions from {t:g} up" for t in REGIONS},
    **{
        f"{name}_{t:g}": f"{text}, from {t:g} up"
        for t in REGIONS
        for name, text in _OF_LARGEST.items()
    },
}
"""Every feature with its meaning; without a region, those of the largest region are 0."""

ALONE = ("maximum", "top_100_mean", "largest_area_mm2_0.5")
"""Features that are used as a slide's score by themselves."""

FOREST = "random_forest"


def features(values: NDArray[np.float32], um_per_cell: float) -> dict[str, float]:
    """Return `FEATURES` of a map (rows, columns); all 0 where nothing was scanned."""
    p = values[np.isfinite(values)]
    if not len(p):
        return dict.fromkeys(FEATURES, 0.0)
    top = np.partition(p, -TOP_CELLS)[-TOP_CELLS:] if len(p) > TOP_CELLS else p
    found = {
        "maximum": float(p.max()),
        "top_100_mean": float(top.mean(dtype=float)),
        "mean": float(p.mean(dtype=float)),
    }
    for t in AREAS:
        cells = int(np.count_nonzero(p >= t))
        found |= {f"area_mm2_{t:g}": cells * um_per_cell**2 / 1e6, f"share_{t:g}": cells / len(p)}
    for t in REGIONS:
        found |= {f"{name}_{t:g}": v for name, v in _regions(values, t, um_per_cell).items()}
    return {name: found[name] for name in FEATURES}


def _regions(values: NDArray[np.float32], threshold: float, um_per_cell: float) -> dict[str, float]:
    """Count the regions and describe the largest; of equal ones the uppermost."""
    labels = label(values, threshold)
    sizes = np.bincount(labels[labels > 0])
    if not len(sizes):
        return {"regions": 0.0, **dict.fromkeys(_OF_LARGEST, 0.0)}
    largest = int(sizes.argmax())
    part = ndimage.find_objects(labels, largest)[largest - 1]
    (region,) = regions((labels[part] == largest).astype(np.uint8), values[part])
    return {
        "regions": float(len(sizes) - 1),
        "largest_area_mm2": float(sizes[largest]) * um_per_cell**2 / 1e6,
        "largest_major_axis_um": float(region.axis_major_length) * um_per_cell,
        "largest_eccentricity": float(region.eccentricity),
        "largest_extent": float(region.extent),
        "largest_solidity": float(region.solidity),
        "largest_mean": float(region.intensity_mean),
        "largest_maximum": float(region.intensity_max),
    }


@dataclass(frozen=True)
class Auc:
    """The ROC area of slides' scores by several rules, for slides drawn any number of times."""

    labels: Labels
    """(slides,) 0 or 1"""
    scores: Floats
    """(rules, slides); a rule with a NaN is undefined"""

    def at(self, counts: Counts) -> Floats:
        """(rules,) with slide i drawn `counts[i]` times; NaN where a class is missing."""
        return np.array(
            [roc_area(*r.positives(counts)) if r else np.nan for r in self._rankings], float
        )

    @cached_property
    def _rankings(self) -> list[Ranking | None]:
        """One for each rule, None for a rule without scores."""
        return [
            None if np.isnan(scores).any() else Ranking(self.labels, scores)
            for scores in self.scores
        ]


def too_few(labels: Labels, folds: NDArray[np.int64]) -> str:
    """Return why no forest can be trained, "" where it can: without a fold, both classes remain."""
    for fold in np.unique(folds):
        rest = labels[folds != fold]
        for kind, name in enumerate(("normal", "tumour")):
            if not (rest == kind).any():
                return f"without fold {fold} no {name} slide is left to train the forest on"
    return ""


def forest(
    table: Floats,
    labels: Labels,
    folds: NDArray[np.int64],
    seed: int = 0,
    on_fold: Callable[[], object] = lambda: None,
) -> Floats:
    """Return P(tumour) of each slide from a forest trained on the other folds; (slides,).

    table: (slides, features). folds: (slides,), one for each slide for leave-one-out. The classes
    have equal weights: leaving a slide out makes its class rarer among the rest, so that a forest
    that follows the class shares would score the slide too low (the bias of pooled leave-one-out).
    All NaN where the other folds lack a class, see `too_few`.
    """
    from sklearn.ensemble import RandomForestClassifier

    if too_few(labels, folds):
        return np.full(len(labels), np.nan)
    p = np.empty(len(labels))
    for fold in np.unique(folds):
        out = folds == fold
        trees = RandomForestClassifier(TREES, class_weight="balanced", random_state=seed)
        trees.fit(table[~out], labels[~out])
        p[out] = trees.predict_proba(table[out])[:, 1]
        on_fold()
    return p
