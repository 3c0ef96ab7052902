"""What a map records of its making and does not compare when it is resumed."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version

from slidescan.slides.plane import Plane
from slidescan.tools.settings_diff import JSON, encodable

WITH_VALUES = (
    "slidescan", "torch", "openvino", "numpy", "zarr", "openslide-python", "openslide-bin"
)  # fmt: skip
"""Packages whose versions a map records."""


@cache
def versions() -> dict[str, JSON]:
    """The versions of `WITH_VALUES`, by package."""
    return {name: version(name) for name in WITH_VALUES}


def now() -> str:
    """The time in UTC; as text it sorts like the time."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def provenance(plane: Plane, command: str) -> dict[str, JSON]:
    """The slide, the command, the time and the versions."""
    bounds = plane.slide.bounds_l0
    return {
        "slide": encodable(plane.slide.path.name),
        "bounds_l0": [bounds.x0, bounds.y0, *bounds.shape[::-1]],
        "level": plane.level,
        "command": encodable(command),
        "started": now(),
        "versions": versions(),
    }
