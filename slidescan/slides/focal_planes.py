"""Focal planes of a slide: OpenSlide reads one, and tells of others only in some formats."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from slidescan.slides.tiff_index import NDPI_PLANE, read_directories

COUNTS = {
    "dicom.TotalPixelMatrixFocalPlanes": "a single one",
    "ventana.Z-layers": "a single one",
    "hamamatsu.NoLayers": "the first",
}
"""OpenSlide's properties that have the number of planes, and which one it reads."""

MIRAX = re.compile(r"mirax\.HIERARCHICAL\.(HIER_\d{1,3}_)NAME")
MIRAX_FOCUS, MIRAX_PLANE = "Microscope focus level", "ZStackLevel_"
"""What Slidedat.ini calls the hierarchy of focal planes, and each plane but the extended focus."""


def find_planes(path: Path, recorded: Mapping[str, str]) -> str | None:
    """Say that a slide has several focal planes, and which of them is read; None where it has one.

    `recorded` are OpenSlide's properties of it.
    """
    for name, read in COUNTS.items():
        if recorded.get(name, "1").strip() not in ("", "0", "1"):
            return _told(f"{recorded[name]:.20}", read)
    if planes := _mirax_planes(recorded):
        return _told(str(planes), "the one of its zoom levels, which is the scanner's choice")
    if recorded.get("openslide.vendor") == "hamamatsu":
        offsets = _ndpi_offsets(path)
        if len(offsets) > 1:
            return _told(
                str(len(offsets)), f"that at 0 of offsets {min(offsets)} to {max(offsets)}"
            )
    return None


def _told(planes: str, read: str) -> str:
    return f"has {planes} focal planes, of which OpenSlide reads {read}"


def _mirax_planes(recorded: Mapping[str, str]) -> int:
    """The planes that Slidedat.ini names; 0 where there is one at most."""
    for name, value in recorded.items():
        found = MIRAX.fullmatch(name)
        if found and value == MIRAX_FOCUS:
            start = f"mirax.HIERARCHICAL.{found.group(1)}VAL_"
            planes = [
                each
                for key, each in recorded.items()
                if key.startswith(start) and each.startswith(MIRAX_PLANE)
            ]
            return len(planes) if len(planes) > 1 else 0
    return 0


def _ndpi_offsets(path: Path) -> set[int]:
    """Offsets of the focal planes of an NDPI; none in other files. OpenSlide reads that of 0."""
    try:
        directories = read_directories(path)
    except OSError:  # OpenSlide has opened it: reading the pixels will show what is wrong
        return set()
    return {each.number(NDPI_PLANE) for each in directories if NDPI_PLANE in each.tags}
