"""Maps as their readers need them: finished, whole, and with a record that can be relied on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slidescan.errors import MapError
from slidescan.geometry import Box
from slidescan.maps.record import Pixels, Record, Resolution, broken, read_record
from slidescan.tools.urls import AnyPlace, Place

if TYPE_CHECKING:
    from slidescan.maps.store import Heatmap

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]+$")]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class SlideSettings(_Strict):
    """The slide of a map; pairs are (y, x)."""

    fingerprint: str
    mpp: tuple[Resolution, Resolution]
    """um/px of level 0"""
    extent_l0: tuple[Pixels, Pixels]


class Calibration(_Strict):
    """What a model's calibration is identified by."""

    temperature: Resolution
    isotonic_sha256: Sha256 | None


class ModelSettings(_Strict):
    """A model, or the members of an ensemble and what they are called together."""

    name: str
    sha256: Sha256
    calibration: Calibration | None = None
    members: Annotated[list[ModelSettings], Field(min_length=1)] | None = None


class Settings(_Strict):
    """The settings that every reader of a map relies on."""

    slide: SlideSettings
    model: ModelSettings
    tta: Literal["d4"] | None = None
    mode: Literal["dense", "patch"] = "dense"


class EngineSettings(Settings):
    """The settings by which a map's cells are computed again."""

    engine: Literal["openvino", "torch"]
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16", "fp16", "int8+bf16", "int8+fp32"]


class Provenance(_Strict):
    """What readers show of a map's provenance."""

    slide: str = Field(min_length=1)
    """the file's name"""


S = TypeVar("S", bound=Settings)


def settings_of(heatmap: Heatmap, kind: type[S]) -> S:
    """Check the settings of a map and return them typed. Raises MapError."""
    return _checked(heatmap.path, "settings", kind, heatmap.settings)


def read_checked_record(path: Place) -> tuple[Record, SlideSettings]:
    """Read the record of a map, finished or not, and what it says of its slide.

    Neither imports zarr nor reads a cell. Raises MapError: no map, or its record lacks what readers
    need.
    """
    record = read_record(path)
    settings = _checked(path, "settings", Settings, record.settings)
    _checked(path, "provenance", Provenance, record.provenance)
    return record, settings.slide


def open_finished(path: AnyPlace, *, partial: bool = False) -> Heatmap:
    """Open a map for reading that is finished and has lost nothing; every reader opens it so.

    `partial` also accepts a map that is not finished. All blocks of level 0 of a finished map are
    read and checked.

    Raises MapError: no map, not finished, damaged, or its record lacks what readers need.
    """
    from slidescan.maps.layout import DamageError  # zarr, which takes a second to import
    from slidescan.maps.store import Heatmap

    heatmap = Heatmap.open(path)
    settings_of(heatmap, Settings)
    _checked(heatmap.path, "provenance", Provenance, heatmap.provenance)
    if heatmap.complete:
        if not heatmap.whole():
            raise DamageError(
                f"{path}: has lost blocks; run the same slidescan heatmap command again to scan "
                "them"
            )
    elif not partial:
        raise MapError(
            f"{path}: the scan has not finished; run slidescan heatmap again, which resumes it"
        )
    return heatmap


def scanned_share(heatmap: Heatmap) -> float:
    """Share of the cells to be scanned that have a value; 1 for a finished map."""
    if heatmap.complete:
        return 1.0
    expected = heatmap.scanned
    done = sum(
        int(expected[block.slices].sum()) for block in heatmap.blocks() if heatmap.done(block)
    )
    return done / max(1, int(expected.sum()))


def recorded_bounds(heatmap: Heatmap) -> Box | None:
    """The part of the slide that was scanned (`openslide.bounds`), in pixels of level 0.

    QuPath shows this part alone. None where the map does not record it, as earlier versions.
    """
    found = heatmap.provenance.get("bounds_l0")
    if not isinstance(found, list) or [type(each) for each in found] != [int] * 4:
        return None
    x, y, width, height = found
    return Box(y, x, y + height, x + width) if min(found) >= 0 and width and height else None


M = TypeVar("M", bound=BaseModel)


def _checked(path: Place, part: str, kind: type[M], found: dict[str, Any]) -> M:
    try:
        return kind.model_validate_json(json.dumps(found))
    except ValidationError as error:
        raise broken(path, error, part) from error
