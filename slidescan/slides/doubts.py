"""Pixels that may not be what they seem, by what a slide's file says of them.

What cannot be right is refused in `samples` and here; what may be wrong becomes a warning. Colours
that only the pixels themselves show are judged in `models/familiarity.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slidescan.errors import SlideError
from slidescan.slides.tiff_index import PHOTOMETRIC, Directory

if TYPE_CHECKING:
    from slidescan.slides.properties import Level

GREY = frozenset({0, 1})
SHOWN = frozenset({*GREY, 2, 3, 6})
"""PhotometricInterpretation that libtiff shows as it is meant: grey, RGB, palette and YCbCr."""
MEANINGS = {4: "a mask", 5: "CMYK", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "raw"}
"""Of the others, TIFF 6.0 and its supplements."""

SHIFT = 12
"""A colour profile that moves the colours of H&E by fewer grey levels does not matter: half of what
the training's augmentation of colours does."""

STRETCHED = 1.02
LEAST_PX = 256
"""Levels smaller than this have other proportions by rounding alone."""


def check_photometric(path: Path, directories: Sequence[Directory]) -> None:
    """Refuse a TIFF of other colours than those that libtiff shows. Raises SlideError."""
    kind = directories[0].number(PHOTOMETRIC, 2) if directories else 2
    if kind not in SHOWN:
        meaning = MEANINGS.get(kind, "unknown")
        raise SlideError(
            f"{path}: its pixels are {meaning} (PhotometricInterpretation {kind}), slidescan reads "
            "RGB; convert the slide to RGB"
        )


def find_doubts(
    directories: Sequence[Directory],
    recorded: Mapping[str, str],
    levels: Sequence[Level],
    shift: float | None,
) -> Iterator[str]:
    """Yield a warning for each doubt about a slide's pixels.

    `shift` is `colour_profiles.profile_shift` of its ICC profile, None without one.
    """
    if directories and directories[0].number(PHOTOMETRIC, 2) in GREY:
        yield "has one grey channel; the models were trained on H&E in colour"
    yield from _of_dicom(recorded)
    yield from _of_paths(recorded)
    yield from _of_levels(levels)
    if shift is not None and shift >= SHIFT:
        yield (
            f"has a colour profile (ICC) that would move the colours of H&E by {shift:.0f} of 255; "
            "it is not applied, as none was to the training patches"
        )


def _of_dicom(recorded: Mapping[str, str]) -> Iterator[str]:
    kind = recorded.get("dicom.PhotometricInterpretation", "")
    if kind in ("YBR_ICT", "YBR_RCT"):
        yield (
            f"DICOM names its colours {kind}, which OpenSlide shows as RGB without looking; if the "
            "slide looks salmon and blue, its map means nothing"
        )
    if "dicom.ConcatenationUID" in recorded:
        yield "is a part of a DICOM concatenation; what lies in its other parts is not read"


def _of_paths(recorded: Mapping[str, str]) -> Iterator[str]:
    paths = recorded.get("dicom.NumberOfOpticalPaths", "1").strip()
    if paths not in ("", "0", "1"):
        yield f"has {paths:.20} optical paths (channels), of which OpenSlide reads the first"


def _of_levels(levels: Sequence[Level]) -> Iterator[str]:
    for level in levels[1:]:
        down_y, down_x = level.downsample
        ratio = max(down_y / down_x, down_x / down_y)
        if min(level.shape_px) >= LEAST_PX and ratio > STRETCHED:
            yield (
                f"level {level.index} has other proportions than level 0 (1 of {down_x:.4g} along "
                f"x, of {down_y:.4g} along y); it may show another part of the slide"
            )
