"""Regions as rows of a table, and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slidescan.geometry import LABEL_PX
from slidescan.maps.finished import scanned_share
from slidescan.maps.regions import Region, Rule
from slidescan.maps.store import Heatmap
from slidescan.tools.atomic_files import replacing

COLUMNS: dict[str, tuple[str, int | None, int | None]] = {
    "region": ("number", None, None),
    "size_class": ("size_class", None, None),
    "area_um2": ("area_um2", None, 2),
    "major_axis_um": ("major_axis_um", None, 2),
    "p_max": ("highest", None, 6),
    "p_mean": ("mean", None, 6),
    "p_95": ("p95", None, 6),
    **{
        f"centroid_{axis}_{unit}": (f"centroid_{unit}", index, 2)
        for unit in ("l0", "um")
        for index, axis in enumerate("xy")
    },
    **{
        f"box_{side}_{unit}": (f"box_{unit}", index, 2)
        for unit in ("l0", "um")
        for index, side in enumerate(("x", "y", "width", "height"))
    },
}
"""The columns of a table of regions: attribute of `Region`, which of its numbers, and digits. `l0`
is px of the slide's level 0."""


def rows(regions: Sequence[Region]) -> list[list[Any]]:
    """A row for each region, in the order of COLUMNS."""
    return [[_value(region, *column) for column in COLUMNS.values()] for region in regions]


def _value(region: Region, attribute: str, index: int | None, digits: int | None) -> Any:
    found = getattr(region, attribute)
    found = found if index is None else found[index]
    return found if digits is None else round(found, digits)


def origin(heatmap: Heatmap) -> dict[str, Any]:
    """What a file made from a map says of it."""
    return {
        "slide": heatmap.provenance["slide"],
        "slide_fingerprint": heatmap.settings["slide"]["fingerprint"],
        "model": heatmap.settings["model"]["name"],
        "model_sha256": heatmap.settings["model"]["sha256"],
        "cell_um": heatmap.mpp * heatmap.grid.stride,
        "scanned_share": round(scanned_share(heatmap), 6),
        "use": "research only",
    }


def stated(rule: Rule) -> dict[str, Any]:
    """What a file says of the rule by which its regions were found."""
    return {"threshold": rule.threshold, "low": rule.low, "min_area_um2": rule.min_area_um2}


def write_json(path: Path, heatmap: Heatmap, rule: Rule, regions: Sequence[Region]) -> None:
    """Write the measures of regions, and what they are of. Raises WriteError."""
    found = [dict(zip(COLUMNS, row, strict=True)) for row in rows(regions)]
    content = {**origin(heatmap), "rule": stated(rule), "note": caveat(heatmap), "regions": found}
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def caveat(heatmap: Heatmap) -> str:
    """What a reader of sizes must know."""
    reach = LABEL_PX / 2 * heatmap.mpp
    return (
        f"A map reaches up to {reach:.0f} um beyond tumour on every side. The size class (macro "
        "above 2 mm, micro above 0.2 mm, else itc) is by the major axis of the region alone; it "
        "is a measurement, not a diagnosis. Research use only."
    )


def summary(rule: Rule, regions: Sequence[Region]) -> str:
    """How many regions there are, by size."""
    what = f"of {rule.min_area_um2:g} um2 or more from P(tumour) {rule.threshold:.4g} up"
    if rule.low is not None:
        what += f", extended down to {rule.low:.4g}"
    if not regions:
        return f"no regions {what}"
    sizes = Counter(region.size_class for region in regions)
    by_size = ", ".join(f"{sizes[name]} {name}" for name in ("macro", "micro", "itc"))
    return f"{len(regions)} region{'s' * (len(regions) > 1)} {what}: {by_size}"
