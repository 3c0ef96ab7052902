"""Describe a data set: counts, sizes, colours, defects and a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.patches.labelled.defects import MEANING, Defect, counted
from slidescan.patches.labelled.division import Data
from slidescan.patches.labelled.patches import Patches
from slidescan.patches.labelled.sources import ABOUT, WANTED
from slidescan.patches.labelled.survey import Survey
from slidescan.pictures import grids

SAMPLE = 20_000
"""Patches to measure colours on, spread evenly over the ids: half a gigabyte."""
WHITE = 220
"""A pixel is nearly white if red, green and blue are above this, of 255."""
GLASS = 0.9
"""A patch with at least this share of nearly white pixels shows hardly any tissue."""
SHOWN = 10
"""The most defects of a kind to name."""
TILES, COLUMNS = 40, 10
CLASSES = {0: "normal", 1: "tumour", -1: "patch"}


@dataclass(frozen=True, slots=True)
class Colours:
    """Colours of a sample of patches; red, green and blue in [0, 1], as in a plan."""

    patches: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Standard deviation over all pixels, not the mean of the patches' deviations."""
    white: float
    """Share of pixels that are nearly white."""
    glass: float
    """Share of patches that are nearly white by `GLASS`."""


def measure(patches: Patches) -> Colours:
    """Measure the colours of up to `SAMPLE` of the patches; there must be at least one."""
    rows = np.unique(np.linspace(0, len(patches) - 1, SAMPLE).astype(int))
    counts = np.zeros((3, 256), np.int64)
    white: list[NDArray[np.float64]] = []
    for part in np.array_split(rows, -(-len(rows) // 256)):
        pixels = patches.pixels(part)
        counts += [np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(3)]
        white.append((pixels > WHITE).all(axis=-1).mean(axis=(1, 2)))
    values = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(shares @ values**2 - mean**2)
    whites = np.concatenate(white)
    return Colours(
        len(rows),
        tuple(mean.tolist()),
        tuple(std.tolist()),
        float(whites.mean()),
        float((whites >= GLASS).mean()),
    )


def report(found: Survey, data: Data | None) -> Iterator[str]:
    """The lines of `slidescan data`; `data` is the division for training, None if it is refused."""
    yield f"{found.listing.root}: {ABOUT[found.listing.layout]}"
    if found.listing.layout == "unlabelled":
        yield f"patches     {len(found.listing)}"
        yield f"labels      none: slidescan predict scores them, training needs labels ({WANTED})"
    else:
        yield _side("patches", found.listing.labels)
    if data:
        yield _side("training", data.training.labels)
        yield _side("validation", data.validation.labels)
        yield f"split       {data.split}"
    yield f"sizes       {_sizes(found)}"
    yield from _colours(found)
    if found.copies:
        yield (
            f"copies      {found.copies} patches have the pixels of another, "
            f"{len(found.shared)} of training those of one of validation"
        )
    yield f"defects     {counted(found.defects) or 'none'}"
    yield from _examples(found.defects)
    yield f"cache       {found.cached.path}, {found.cached.stored.nbytes / 1e9:.2f} GB"


def _side(name: str, labels: NDArray[np.int64]) -> str:
    positives, count = int(labels.sum()), len(labels)
    share = positives / max(count, 1)
    return f"{name:<12}{count}: {count - positives} normal, {positives} tumour ({share:.1%})"


def _sizes(found: Survey) -> str:
    unreadable = sum(d.kind == "unreadable" for d in found.defects)
    others = Counter(d.detail.split(" px")[0][3:] for d in found.defects if d.kind == "size")
    right = len(found.listing) - unreadable - others.total()
    return ", ".join(
        [f"{right} of 96 x 96 px", *(f"{n} of {size} px" for size, n in others.most_common(SHOWN))]
    )


def _colours(found: Survey) -> Iterator[str]:
    kept = found.kept()
    if not len(kept):
        return
    c = measure(found.patches().take(kept))
    mean, std = (f"[{', '.join(f'{v:.3f}' for v in values)}]" for values in (c.mean, c.std))
    yield f"colours     mean {mean}, std {std} (R, G, B from 0 to 1; of {c.patches} patches)"
    yield (
        f"white       {c.white:.1%} of the pixels are nearly white (above {WHITE} of 255); "
        f"{c.glass:.1%} of the patches are so by nine tenths"
    )


def _examples(defects: Sequence[Defect]) -> Iterator[str]:
    ordered = sorted(defects, key=lambda defect: list(MEANING).index(defect.kind))
    for kind, group in groupby(ordered, lambda defect: defect.kind):
        found = list(group)
        yield f"  {kind}: {MEANING[kind]}"
        yield from (f"    {defect.name} {defect.detail}" for defect in found[:SHOWN])
        if len(found) > SHOWN:
            yield f"    and {len(found) - SHOWN} more"


def picture(path: Path, found: Survey, title: str) -> None:
    """Write a sheet of patches of each class, spread evenly over the ids.

    The central 32 x 32 px, to which the label refers, are marked. Raises `WriteError`.
    """
    patches = found.patches().take(found.kept())
    tiles = []
    for label in np.unique(patches.labels).tolist():
        of = np.flatnonzero(patches.labels == label)
        for row in of[np.unique(np.linspace(0, len(of) - 1, TILES // 2).astype(int))]:
            tiles.append((patches.pixels(row), f"{CLASSES[label]} {patches.ids[row][:8]}"))
    grids.grid(path, tiles, COLUMNS, title, mark=True)
