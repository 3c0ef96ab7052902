"""The record of a map: the `slidescan` attribute of its root, which says what made it."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slidescan.errors import MapError, describe
from slidescan.geometry import Grid
from slidescan.tools.regular_files import MB, read_regular
from slidescan.tools.settings_diff import JSON, strict
from slidescan.tools.urls import Place, Url

FORMAT = 1
"""Version of the layout. Raise it for a change that old code would misread."""

MOST_BYTES = 16 * MB
"""Of the root's metadata, which has a few kB."""

Pixels = Annotated[int, Field(ge=1, le=2**40)]
Even = Annotated[int, Field(ge=2, le=2**20, multiple_of=2)]
Resolution = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class GridRecord(_Strict):
    """The fields of `Grid`."""

    extent_px: tuple[Pixels, Pixels]
    stride: Even
    field_px: Even


class Record(_Strict):
    """What a map records about itself."""

    grid: GridRecord
    mpp: Resolution
    settings: dict[str, Any]
    provenance: dict[str, Any]
    complete: bool
    selected: int | None = None
    """cells of the mask; maps of earlier versions do not record it"""


def new_record(blank: Blank) -> dict[str, Any]:
    """Return the record of a map that is not scanned yet.

    Raises ValueError where the mask does not fit the grid or a setting is not JSON.
    """
    grid, mask = blank["grid"], blank["mask"]
    if mask.shape != grid.shape or 0 in mask.shape or mask.dtype != np.bool_:
        raise ValueError(f"mask {mask.dtype} {mask.shape} is not a bool of {grid.shape}")
    kept = {key: blank[key] for key in ("mpp", "settings", "provenance")}
    state = {"complete": False, "selected": int(np.count_nonzero(mask))}
    return strict({"format": FORMAT, "grid": asdict(grid), **kept, **state})


def _read_root(path: Place) -> bytes:
    """The root's metadata. Raises OSError, or RemoteError for an address."""
    if not isinstance(path, Url):
        return read_regular(path / "zarr.json", MOST_BYTES)
    from slidescan.tools.objects.store import bucket_of

    found = bucket_of(path).get((path / "zarr.json").path, MOST_BYTES)
    if found is None:
        raise FileNotFoundError(str(path))
    return found[0]


def find_record(path: Place) -> dict[str, Any] | None:
    """Return the record at `path` as it is, None where there is no slidescan map.

    Raises MapError where the file may not be read, or the store cannot be reached.
    """
    try:
        record = json.loads(_read_root(path))["attributes"]["slidescan"]
    except PermissionError as error:
        raise MapError(f"{path}: cannot be read ({error.strerror})") from error
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return record if isinstance(record, dict) and "format" in record else None


def read_level_count(path: Place) -> int:
    """How many levels a map has by its NGFF metadata; 1 where that cannot be read."""
    try:
        attributes = json.loads(_read_root(path))["attributes"]
        (image,) = attributes["ome"]["multiscales"]
        return max(1, len(image["datasets"]))
    except (OSError, ValueError, LookupError, TypeError):
        return 1


def read_record(path: Place) -> Record:
    """Return the record of the map at `path`.

    Raises MapError where there is no map, it has another format or its record is broken.
    """
    found = find_record(path)
    if found is None:
        raise MapError(f"{path}: not a slidescan map; check the path")
    if found["format"] != FORMAT or isinstance(found["format"], bool):
        told = reprlib.repr(found["format"])
        raise MapError(f"{path}: map format {told}, not {FORMAT}; update slidescan")
    try:
        # As JSON, in which a tuple is a list.
        return Record.model_validate_json(json.dumps(found))
    except ValidationError as error:
        raise broken(path, error) from error


def broken(path: Place, error: ValidationError, part: str = "record") -> MapError:
    """Return the error for a part of the record with a missing or wrong key."""
    return MapError(
        f"{path}: the map's {part} cannot be used ({describe(error)}); scan again with --overwrite"
    )
