"""Tell whether patches look like those that a model was trained on, from their pixels alone.

Four figures are measured of each patch. They are ratios, so the strength of the stain and the
brightness of the lamp change them little. The mean of a set of patches is compared with the mean
and standard deviation over the training patches. Each figure is watched on one side only: on the
other lie tissues, stains and scanners that differ from those of training and are still H&E. A
Mahalanobis distance finds as much, but also flags H&E of other scanners (docs/limits.md has both).
The score has no influence on probabilities.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidescan.models.reference import Reference, Spread
from slidescan.tools.settings_diff import JSON

LEAST = 16
"""Patches with tissue that a score needs."""

ENOUGH = 64
"""Patches from which a slide or a folder is judged: a mean is known to an eighth of its sd."""

SUMMARISED = 2000
"""Training patches from which the reference is computed: a mean is known to sd / 45."""

TISSUE_OD = 0.1
"""Pixels of at least this optical density (mean of the channels, natural logarithm) are tissue."""

TISSUE_SHARE = 0.5
"""Patches with less tissue are not measured: their figures describe the glass."""

FLOOR = 1e-3
"""Added to what a logarithm is taken of: a patch of one colour has no contrast at all."""

# (value + 1) / 256, so that black has a finite optical density.
OD = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)


@dataclass(frozen=True, slots=True)
class Watch:
    """A figure, the deviation at which the score is 1, and what it means."""

    figure: str
    limit_sd: float
    """In standard deviations of a training patch; its sign is the side that is watched."""
    meaning: str


WATCHED = (
    Watch("green", -2.4, "colours (in H&E green varies most)"),
    Watch("contrast", -2.0, "colours (in H&E red varies more than blue)"),
    Watch("sharpness", -4.5, "sharpness (out of focus, or finer than the resolution recorded)"),
    Watch("coarseness", 1.9, "resolution (coarser than recorded)"),
)
"""Chosen by `python -m benchmarks.accuracy.unlike`; the order is that of `measure`."""


@dataclass(frozen=True, slots=True)
class Finding:
    """How unlike the training patches a set of patches is."""

    score: float
    """The deviation that is largest in proportion to its limit; unlike from 1 on, at least 0."""
    watch: Watch
    patches: int

    @property
    def unlike(self) -> bool:
        return self.score >= 1

    def warning(self) -> str:
        return (
            f"unlike the training patches in {self.watch.meaning}: score {self.score:.2f} from "
            f"{self.patches} patches, 1 or more is unlike; do not rely on the probabilities"
        )

    def record(self) -> dict[str, JSON]:
        """The finding as a map records it."""
        figure = self.watch.figure
        return {"score": round(self.score, 3), "figure": figure, "patches": self.patches}


def recorded(record: object) -> Finding | None:
    """The finding that a map records; None where it records none, or none that can be read."""
    watched = {watch.figure: watch for watch in WATCHED}
    match record:
        case {"score": int() | float() as score, "figure": str(figure), "patches": int(patches)}:
            return Finding(score, watched[figure], patches) if figure in watched else None
    return None


def measure(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Measure patches with tissue, (N, H, W, 3) uint8 to (M, 4), M <= N.

    The columns are, as natural logarithms:

    green: standard deviation of green's optical density in the tissue, to those of red and blue.
    contrast: red's variation (standard deviation / mean) to blue's. Haematoxylin varies most in
        H&E and absorbs red; exchanged channels and DAB lower it.
    sharpness: energy of the Laplacian at full resolution to that at half.
    coarseness: energy of the Laplacian at half resolution to that at a quarter.
    """
    density = OD[pixels]
    grey = density.mean(-1)
    tissue = grey >= TISSUE_OD
    kept = tissue.mean((1, 2)) >= TISSUE_SHARE
    density, grey, tissue = density[kept], grey[kept], tissue[kept]
    mean, sd = _moments(density, tissue)
    varied = np.log(sd)
    variation = varied - np.log(mean)
    half = halved(grey)
    fine, middle, coarse = (np.log(energy(each)) for each in (grey, half, halved(half)))
    return np.stack(
        [
            varied[:, 1] - (varied[:, 0] + varied[:, 2]) / 2,
            variation[:, 0] - variation[:, 2],
            fine - middle,
            middle - coarse,
        ],
        axis=1,
    )


def _moments(
    density: NDArray[np.float32], tissue: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel over the tissue, (N, 3) each."""
    weights = tissue[..., None]
    count = weights.sum((1, 2))
    mean = (density * weights).sum((1, 2), dtype=np.float64) / count
    square = (((density - mean[:, None, None]) * weights) ** 2).sum((1, 2)) / count
    return mean + FLOOR, np.sqrt(square) + FLOOR


def halved(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 2 x 2 px, (N, H, W) to (N, H // 2, W // 2)."""
    count, height, width = grey.shape
    even = grey[:, : height // 2 * 2, : width // 2 * 2]
    means: NDArray[np.float32] = even.reshape(count, height // 2, 2, width // 2, 2).mean((2, 4))
    return means


def energy(grey: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean square of the Laplacian, (N, H, W) to (N,)."""
    middle = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    square: NDArray[np.float64] = ((4 * middle - around) ** 2).mean((1, 2), dtype=np.float64)
    return square + FLOOR**2


def summarise(measured: NDArray[np.float64]) -> Reference | None:
    """Summarise the figures of training patches, (N, 4); None of fewer than `LEAST`."""
    if len(measured) < LEAST:
        return None
    means, sds = measured.mean(0), np.maximum(measured.std(0), FLOOR)
    spreads = {
        watch.figure: Spread(mean=round(float(mean), 4), sd=round(float(sd), 4))
        for watch, mean, sd in zip(WATCHED, means, sds, strict=True)
    }
    return Reference(patches=len(measured), **spreads)


def relative(means: NDArray[np.float64], reference: Reference) -> NDArray[np.float64]:
    """Deviations of the means of sets, (..., 4), from training, divided by their limits."""
    spreads: list[Spread] = [getattr(reference, watch.figure) for watch in WATCHED]
    centre = np.array([spread.mean for spread in spreads])
    limits = [spread.sd * watch.limit_sd for spread, watch in zip(spreads, WATCHED, strict=True)]
    deviations: NDArray[np.float64] = (means - centre) / np.array(limits)
    return deviations


def compare(measured: NDArray[np.float64], reference: Reference) -> Finding | None:
    """Compare the mean of a set, (N, 4), with training; None of fewer than `LEAST` patches."""
    if len(measured) < LEAST:
        return None
    deviations = relative(measured.mean(0), reference)
    worst = int(deviations.argmax())
    return Finding(max(0.0, float(deviations[worst])), WATCHED[worst], len(measured))


def judge(pixels: NDArray[np.uint8], references: Iterable[Reference | None]) -> Finding | None:
    """Compare patches, (N, H, W, 3) uint8, with the training of each model; the worst finding.

    None where no model has a reference or too few patches hold tissue.
    """
    known = [reference for reference in references if reference is not None]
    if not known or len(pixels) < LEAST:
        return None
    measured = measure(pixels)[:ENOUGH]
    found = [finding for each in known if (finding := compare(measured, each))]
    return max(found, key=lambda finding: finding.score, default=None)
