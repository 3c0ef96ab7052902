"""What the page is told of a map, by its record alone: zarr is not imported, no cell is read."""

from __future__ import annotations

from typing import Any

from slidescan.errors import SlidescanError
from slidescan.geometry import Grid
from slidescan.maps.finished import read_checked_record
from slidescan.maps.ngff import halved
from slidescan.maps.record import Record, read_level_count
from slidescan.viewer.catalogue import MapEntry

TILE_CELLS = 256
"""Side of a map tile, cells of its level."""

SHOWN = ("engine", "device", "precision", "mode", "tta", "tissue_mask")
"""Settings that the page shows."""


def list_map(entry: MapEntry, highest: float | None) -> dict[str, Any]:
    """A map in the list of slides; `highest` is None until it is known."""
    record = entry.record
    selected = record.selected
    return {
        "id": entry.id,
        "name": entry.name,
        "complete": record.complete,
        "highest": highest,
        "tissue_mm2": None if selected is None else selected * _cell_mm2(record),
    }


def describe_map(entry: MapEntry, models: tuple[str, ...]) -> dict[str, Any]:
    """Grid, levels, model and state of a map. Raises MapError."""
    record, slide = read_checked_record(entry.path)  # it may have been finished or replaced
    grid = Grid(**dict(record.grid))
    cell_um = record.mpp * grid.stride
    rows, columns = grid.shape
    levels = halved(grid.shape, read_level_count(entry.path))
    return {
        "id": entry.id,
        "name": entry.name,
        "model": record.settings["model"]["name"],
        "rows": rows,
        "columns": columns,
        "cell_l0": [cell_um / um for um in slide.mpp],
        "tile_cells": TILE_CELLS,
        "levels": [{"rows": r, "columns": c} for r, c in levels],
        "complete": record.complete,
        "stride_px": grid.stride,
        "mpp": record.mpp,
        "thresholds": thresholds(record.settings, models),
        "cell_mm2": _cell_mm2(record),
        "tissue_cells": record.selected,
        "version": 0,
        "warnings": list(_warnings(record)),
        "settings": {
            **{key: record.settings[key] for key in SHOWN if key in record.settings},
            "slide": record.provenance["slide"],
            "started": record.provenance.get("started"),
        },
    }


def thresholds(settings: dict[str, Any], models: tuple[str, ...]) -> dict[str, float]:
    """The operating points of the model that made a map, by name; none where there is no card.

    They were chosen on the values of one model, so a map of averages has none.
    """
    from slidescan.models.card import read_card, shipped_names
    from slidescan.models.identity import identity_of, key, members

    made = members(settings)
    if len(made) > 1 or settings.get("tta"):
        return {}
    for source in models or [name for name in shipped_names() if name == made[0]["name"]]:
        try:
            card = read_card(source)
        except SlidescanError:
            continue
        if card.operating and key(identity_of(card)) == key(made[0]):
            return {name: at.threshold for name, at in card.operating.points.items()}
    return {}


def _warnings(record: Record) -> list[str]:
    """What a user should know before trusting the values."""
    found = []
    unlike = record.provenance.get("unlike") or {}
    if unlike.get("score", 0) >= 1:
        found.append(
            f"the slide is unlike the training patches in {unlike['figure']} (score "
            f"{unlike['score']}, 1 or more is unlike); do not rely on the probabilities"
        )
    gaps = record.provenance.get("gaps") or {}
    if gaps.get("cells"):
        found.append(f"{gaps['cells']} cells were not scanned: the slide's file lacks their pixels")
    return found


def _cell_mm2(record: Record) -> float:
    return (record.mpp * record.grid.stride / 1000) ** 2
