"""What a report says of a map beside its pictures: models, settings, warnings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from slidescan.geometry import LABEL_PX
from slidescan.maps.gaps import find_gaps
from slidescan.maps.store import Heatmap
from slidescan.models.card import Card
from slidescan.models.familiarity import recorded
from slidescan.models.identity import find_card, members
from slidescan.models.scores import Validation
from slidescan.report.tally import Tally
from slidescan.slides.slide import Slide
from slidescan.slides.tissue import HE_LIKE

Facts = list[tuple[str, str]]
"""Names and values, in the order in which they are shown."""


def model_cards(heatmap: Heatmap, sources: Sequence[str]) -> list[Facts]:
    """Five lines on each model of a map; two where its card is not at hand.

    `sources` name models beside the shipped ones. Raises ModelError where one is missing.
    """
    return [
        list(_model(member, find_card(member, sources))) for member in members(heatmap.settings)
    ]


def _model(member: dict[str, Any], card: Card | None) -> Iterator[tuple[str, str]]:
    name, sha256 = member["name"], member["sha256"]
    if card is None:
        yield "Model", f"{name}, weights SHA-256 {sha256[:16]}..."
        yield "Card", "not at hand: neither a shipped model nor one named with --model"
        return
    count = f"{card.parameters:,} parameters, " if card.parameters else ""
    yield "Model", f"{card.name}, {card.plan.arch}, {count}weights SHA-256 {sha256[:16]}..."
    yield (
        "Sees",
        (
            f"{card.field_px} x {card.field_px} px at {card.mpp:g} um/px; says whether the central "
            f"{LABEL_PX} x {LABEL_PX} px hold tumour"
        ),
    )
    yield "Trained on", card.data
    yield "Validation", f"{_scores(card.validation)}; {card.split}"
    yield "Calibration", _calibration(card)


def _scores(found: Validation) -> str:
    interval = ""
    if found.auc_low is not None and found.auc_high is not None:
        interval = f" (95 % interval {found.auc_low:.3f} to {found.auc_high:.3f})"
    return f"AUC {found.auc:.3f}{interval} on {found.patches:,} patches"


def _calibration(card: Card) -> str:
    by = card.calibration
    told = f"temperature {by.temperature:.3g}, fitted on {by.fitted_on}" if by else "none"
    if card.operating is None:
        return f"{told}; no operating points"
    points = (f"{name} {at.threshold:.3g}" for name, at in card.operating.points.items())
    return f"{told}; operating points {', '.join(points)}"


def settings(heatmap: Heatmap, slide: Slide) -> Facts:
    """How the map was made, and from what."""
    found, made, grid = heatmap.settings, heatmap.provenance, heatmap.grid
    height, width = slide.extent_l0
    mm = (
        f"{size * mpp / 1000:.3g}"
        for size, mpp in zip((width, height), slide.mpp[::-1], strict=True)
    )
    power = f", objective {slide.objective_power:g}x" if slide.objective_power else ""
    run = made.get("last_run")
    versions = made.get("versions")
    facts = [
        ("Slide", f"{width} x {height} px of {_mpp(slide)} um ({' x '.join(mm)} mm){power}"),
        ("Fingerprint", slide.fingerprint),
        ("Map", f"{grid.shape[0]} x {grid.shape[1]} cells of {heatmap.mpp * grid.stride:.4g} um"),
        ("Stride", f"{grid.stride} px at {heatmap.mpp:g} um/px"),
        (
            "Mode",
            f"{found.get('mode', 'dense')}; test-time augmentation {found.get('tta') or 'none'}",
        ),
        ("Engine", " ".join(str(found.get(k, "")) for k in ("engine", "precision", "device"))),
        (
            "Tissue mask",
            "yes" if found.get("tissue_mask", True) else "no: glass was scanned as well",
        ),
        ("Scanned", _times(made.get("started"), run)),
        ("Command", str(made.get("command") or "")),
        (
            "Versions",
            ", ".join(f"{k} {v}" for k, v in versions.items())
            if isinstance(versions, dict)
            else "",
        ),
    ]
    return [(name, value.strip()) for name, value in facts if value.strip()]


def _mpp(slide: Slide) -> str:
    return " x ".join(dict.fromkeys(f"{mpp:.4g}" for mpp in slide.mpp[::-1]))


def _times(started: object, run: object) -> str:
    seconds = run.get("seconds") if isinstance(run, dict) else None
    took = f", {seconds:.0f} s" if isinstance(seconds, int | float) else ""
    return f"{started}{took}" if started else ""


def warnings(heatmap: Heatmap, slide: Slide, found: Tally) -> list[str]:
    """What a reader must know before believing the report."""
    return list(_warnings(heatmap, slide, found))


def _warnings(heatmap: Heatmap, slide: Slide, found: Tally) -> Iterator[str]:
    wanted = int(np.count_nonzero(heatmap.scanned))
    if not heatmap.complete:
        share = found.cells / wanted if wanted else 1.0
        yield f"The scan has not finished: {share:.1%} of the selected cells have a value."
    if not wanted:
        yield (
            "No tissue was found, so nothing was scanned; slidescan heatmap --no-tissue-mask scans "
            "all the same."
        )
    yield from (f"{warning[:1].upper()}{warning[1:]}." for warning in slide.warnings)
    unlike = recorded(heatmap.provenance.get("unlike"))
    he_like = heatmap.provenance.get("he_like")
    if unlike and unlike.unlike:
        yield f"The slide is {unlike.warning()}."
    elif unlike is None and isinstance(he_like, float) and he_like < HE_LIKE:
        yield (
            f"The slide is unlike H&E: green is the lowest channel in {he_like:.0%} of the tissue; "
            "the models were trained on H&E alone."
        )
    match heatmap.provenance.get("damaged"):
        case {"blocks": int(blocks)}:
            yield f"{blocks:,} blocks of the slide's file are or look damaged."
    pitch_um = heatmap.mpp * heatmap.grid.stride
    gaps = find_gaps(heatmap.gaps, heatmap.mask, (pitch_um / slide.mpp[0], pitch_um / slide.mpp[1]))
    if gaps:
        text = gaps.warning()
        yield f"{text[:1].upper()}{text[1:]}."
