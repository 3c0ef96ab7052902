"""All that the report of one slide shows, gathered from the map and the slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain

import numpy as np
import shapely
from numpy.typing import NDArray

from slidescan.maps.regions import Region, Rule, find_regions
from slidescan.maps.store import Heatmap
from slidescan.protocols import OpenBar
from slidescan.report import facts, images
from slidescan.report.tally import TOP_CELLS, Tally, tally
from slidescan.slides.slide import Slide

Floats = NDArray[np.float64]

TISSUE_PX = 500
"""Longest side of the picture of the tissue, which is drawn smaller."""

SIZE_CLASSES = {
    "macro": "macro (above 2 mm)",
    "micro": "micro (0.2 to 2 mm)",
    "itc": "below 0.2 mm",
}
"""How a region's class by size is written."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What a user chooses of a report."""

    rule: Rule
    threshold_name: str = ""
    """the operating point that the threshold was looked up for, if any"""
    listed: int = 12
    """regions with a crop, at most"""
    models: tuple[str, ...] = ()
    """where the cards of models are that are not shipped"""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the whole slide."""

    uri: str
    size_px: tuple[int, int]
    """(width, height)"""
    caption: str


@dataclass(frozen=True, slots=True)
class Listed:
    """A region of the table."""

    region: Region
    crop: images.Crop
    size_class: str
    path: str
    """the outline as an SVG path in percent of the overview's sides"""
    pin: tuple[float, float]
    """the hottest cell, (x, y) in percent of the overview's sides"""


@dataclass(frozen=True, slots=True)
class Score:
    """One figure of the slide."""

    name: str
    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Bars:
    """A histogram of cells by probability, heights by the logarithm."""

    heights: list[float]
    """percent of the highest bar"""
    counts: list[int]
    ticks: list[tuple[str, float]]
    """cells, and their height in percent"""


@dataclass(frozen=True, slots=True)
class Content:
    """The report of one slide."""

    slide: str
    map: str
    made: str
    """date and time"""
    version: str
    partial: bool
    pictures: list[Picture]
    thumbnail: str
    key: str
    scale_bar: tuple[str, float]
    """its length as text, and in percent of the pictures' width"""
    choices: Choices
    rule: str
    scores: list[Score]
    bars: Bars
    regions: list[Listed]
    region_count: int
    models: list[facts.Facts]
    settings: facts.Facts
    warnings: list[str]
    row: dict[str, float]
    """what a cohort is sorted by"""


def gather(heatmap: Heatmap, slide: Slide, choices: Choices, threads: int, bar: OpenBar) -> Content:
    """Read map and slide. Raises MapError, ModelError and SlideError."""
    found = tally(heatmap, choices.rule.threshold)
    cards = facts.model_cards(heatmap, choices.models)
    regions = find_regions(heatmap, choices.rule, bar)
    overview = images.read_overview(heatmap, slide, threads, bar)
    listed = list(_listed(heatmap, slide, overview, regions[: choices.listed], bar))
    cell_um2 = (heatmap.mpp * heatmap.grid.stride) ** 2
    return Content(
        slide=slide.path.name,
        map=heatmap.path.name,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=version("slidescan"),
        partial=not heatmap.complete,
        pictures=_pictures(overview),
        thumbnail=images.jpeg(overview.overlay(), images.THUMBNAIL_PX),
        key=images.colour_key(),
        scale_bar=_scale_bar(overview),
        choices=choices,
        rule=_rule(choices),
        scores=_scores(found, regions, cell_um2, choices.rule.threshold),
        bars=_bars(found),
        regions=listed,
        region_count=len(regions),
        models=cards,
        settings=facts.settings(heatmap, slide),
        warnings=facts.warnings(heatmap, slide, found),
        row={
            "highest": found.highest,
            "top_mean": found.top_mean,
            "above_mm2": found.above * cell_um2 / 1e6,
            "regions": float(len(regions)),
            "longest_um": max((each.major_axis_um for each in regions), default=0.0),
            "scanned_mm2": found.cells * cell_um2 / 1e6,
        },
    )


def _pictures(overview: images.Overview) -> list[Picture]:
    size = overview.box.shape[::-1]
    shown = (
        (overview.slide(), None, "The slide"),
        (overview.overlay(), None, "The slide under its map; blue line: edge of what was scanned"),
        (overview.tissue(), TISSUE_PX, "Tissue: what is not faded was selected for scanning"),
    )
    return [Picture(images.jpeg(image, longest), size, text) for image, longest, text in shown]


def _scale_bar(overview: images.Overview) -> tuple[str, float]:
    """1, 2 or 5 times a power of ten, at most a quarter of the width."""
    width_um = overview.box.shape[1] * overview.um_per_px
    power = 10.0 ** np.floor(np.log10(width_um / 4))
    length = max(n * power for n in (1, 2, 5) if n * power <= width_um / 4)
    text = f"{length:g} um" if length < 1000 else f"{length / 1000:g} mm"
    return text, 100 * length / width_um


def _listed(
    heatmap: Heatmap,
    slide: Slide,
    overview: images.Overview,
    regions: Sequence[Region],
    bar: OpenBar,
) -> list[Listed]:
    found = []
    with bar("crops", len(regions), "region") as progress:
        for region, crop in zip(regions, images.crops(heatmap, slide, regions), strict=True):
            pin = _percent(overview, slide, np.array([crop.centre_l0], float))[0]
            path = _path(overview, slide, region.outline)
            kind = SIZE_CLASSES[region.size_class]
            found.append(Listed(region, crop, kind, path, (float(pin[0]), float(pin[1]))))
            progress.update(1)
    return found


def _path(overview: images.Overview, slide: Slide, outline: shapely.Polygon) -> str:
    """Draw an outline no finer than the picture shows it."""
    drawn = outline.simplify(overview.um_per_px / max(slide.mpp))
    rings = (np.asarray(ring.coords) for ring in chain([drawn.exterior], drawn.interiors))
    return "".join(
        "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in _percent(overview, slide, ring)) + "Z"
        for ring in rings
    )


def _percent(overview: images.Overview, slide: Slide, points_l0: Floats) -> Floats:
    """(N, 2) points (x, y) in percent of the overview's width and height."""
    px = points_l0 * slide.mpp[::-1] / overview.um_per_px
    origin, shape = (overview.box.x0, overview.box.y0), overview.box.shape[::-1]
    return np.asarray(100 * (px - origin) / shape, np.float64)


def _rule(choices: Choices) -> str:
    rule = choices.rule
    name = f" ({choices.threshold_name} of the model)" if choices.threshold_name else ""
    low = f", grown down to {rule.low:.4g}" if rule.low is not None else ""
    return (
        f"connected cells of at least {rule.threshold:.4g}{name}{low}, "
        f"{rule.min_area_um2:,.0f} um2 or more"
    )


def _scores(
    found: Tally, regions: Sequence[Region], cell_um2: float, threshold: float
) -> list[Score]:
    mm2 = cell_um2 / 1e6
    share = f" ({found.above / found.cells:.2%})" if found.cells else ""
    longest = max(regions, key=lambda region: region.major_axis_um, default=None)
    return [
        Score("Highest probability", probability(found.highest), "of any cell"),
        Score(
            "Mean of the highest",
            probability(found.top_mean),
            f"{TOP_CELLS} cells",
        ),
        Score("Mean probability", probability(found.mean), "of all cells scanned"),
        Score(
            f"Area from {threshold:.4g} up",
            f"{found.above * mm2:.3g} mm2{share}",
            "up to 16 um wider than tumour",
        ),
        Score("Scanned", f"{found.cells * mm2:.4g} mm2", f"{found.cells:,} cells"),
        Score("Regions", f"{len(regions):,}", "candidates for lesions"),
        Score(
            "Longest axis of a region",
            f"{longest.major_axis_um:,.0f} um" if longest else "none",
            f"region {longest.number}: {SIZE_CLASSES[longest.size_class]}" if longest else "",
        ),
    ]


def probability(p: float) -> str:
    """Three digits; neither 0.000 nor 1.000 for what is not quite that.

    >>> probability(0.99987), probability(0.25)
    ('above 0.999', '0.250')
    """
    if np.isnan(p):
        return "none"
    if 0.9995 <= p < 1:
        return "above 0.999"
    return "below 0.001" if 0 < p < 0.0005 else f"{p:.3f}"


def _bars(found: Tally) -> Bars:
    most = max(int(found.counts.max()), 10)
    scale = 100 / np.log10(1 + most)
    decades = range(int(np.log10(most)) + 1)
    return Bars(
        (np.log10(1 + found.counts) * scale).round(2).tolist(),
        found.counts.tolist(),
        [(f"{10**d:,}", round(float(np.log10(1 + 10**d) * scale), 2)) for d in decades],
    )
