"""The record of a map: the `slidescan` attribute of its root, which says what made it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import MapError
from slidescan.geometry import Grid
from slidescan.tools.settings_diff import JSON, strict

FORMAT = 1
"""Version of the layout. Raise it for a change that old code would misread."""


class Blank(TypedDict):
    """A map before its first cell is scanned."""

    grid: Grid
    mpp: float
    mask: NDArray[np.bool_]
    """(cells_y, cells_x), true where a cell is to be scanned"""
    settings: Mapping[str, JSON]
    """everything that determines the values, the slide and the model's weights included"""
    provenance: Mapping[str, JSON]
    """anything else worth knowing; never compared"""


def new_record(blank: Blank) -> dict[str, Any]:
    """Return the record of a map that is not scanned yet.

    Raises ValueError where the mask does not fit the grid or a setting is not JSON.
    """
    grid, mask = blank["grid"], blank["mask"]
    if mask.shape != grid.shape or 0 in mask.shape or mask.dtype != np.bool_:
        raise ValueError(f"mask {mask.dtype} {mask.shape} is not a bool of {grid.shape}")
    kept = {key: blank[key] for key in ("mpp", "settings", "provenance")}
    return strict({"format": FORMAT, "grid": asdict(grid), **kept, "complete": False})


def find_record(path: Path) -> dict[str, Any] | None:
    """Return the record at `path`, None where there is no slidescan map.

    Raises MapError where the file may not be read.
    """
    try:
        record = json.loads((path / "zarr.json").read_text())["attributes"]["slidescan"]
    except PermissionError as error:
        raise MapError(f"{path}: cannot be read ({error.strerror})") from error
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return record if isinstance(record, dict) and "format" in record else None


def read_record(path: Path) -> dict[str, Any]:
    """Return the record of the map at `path`.

    Raises MapError where there is no map or it has another format.
    """
    record = find_record(path)
    if record is None:
        raise MapError(f"{path}: not a slidescan map; check the path")
    if record["format"] != FORMAT:
        raise MapError(f"{path}: map format {record['format']}, not {FORMAT}; update slidescan")
    return record
