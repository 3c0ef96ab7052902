"""What a slide records about itself: resolution, levels, scanned area.

Frames: `_l0` is the slide's level 0; *level* pixels are those of one pyramid level. Pairs are
(y, x).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slidescan.errors import SlideError
from slidescan.geometry import Box

Properties = Mapping[str, str]
"""OpenSlide's properties of a slide."""

CONTRADICTION = 1.6
"""mpp and objective power disagree from this factor on: 40x scanners record 0.16 to 0.26 um/px."""

FINEST_UM = 0.05
"""No light microscope resolves less; scanners record 0.1 um/px or more."""

LARGEST_UM, LARGEST_UM2 = 3e5, 3e10
"""Side and area of the largest slide: large-format glass has 20 cm x 15 cm."""

STRETCHED = 1.05
"""Pixels are square on all scanners; from this ratio of y to x on the resolution is doubtful."""

GLASS_OMITTED = frozenset({"dicom", "leica", "mirax", "philips", "ventana", "zeiss"})
"""OpenSlide's vendors whose files leave out areas that were not scanned (openslide.org/formats;
for DICOM the organisation TILED_SPARSE). In other formats a missing tile is damage."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid; pairs are (y, x)."""

    index: int
    shape_px: tuple[int, int]
    downsample: tuple[float, float]
    """level-0 px per level px, the true one"""
    mpp: tuple[float, float]
    """um/px"""
    reported: float
    """the downsample by which OpenSlide divides locations"""
    block_px: tuple[int, int]
    """the lattice of reads, see Slide.read_level"""


def find_levels(
    path: Path,
    sizes: Sequence[tuple[int, int]],
    reported: Sequence[float],
    recorded: Properties,
    mpp: tuple[float, float],
) -> tuple[Level, ...]:
    """Describe each level, finest first.

    `sizes` are (width, height) and `reported` the downsamples, as OpenSlide gives them.

    Raises SlideError where a level is empty.
    """
    levels = []
    for index, (width, height) in enumerate(sizes):
        if min(height, width) < 1:
            raise SlideError(f"{path}: level {index} is {width} x {height} px; the file is damaged")
        scale = true_downsample(sizes[0][::-1], (height, width))
        rows, columns = (
            _block(recorded.get(f"openslide.level[{index}].tile-{side}"))
            for side in ("height", "width")
        )
        levels.append(
            Level(
                index=index,
                shape_px=(height, width),
                downsample=scale,
                mpp=(mpp[0] * scale[0], mpp[1] * scale[1]),
                reported=reported[index],
                block_px=(rows, columns),
            )
        )
    return tuple(levels)


def true_downsample(extent_l0: tuple[int, int], shape_px: tuple[int, int]) -> tuple[float, float]:
    """Level-0 px per level px, (y, x), from the dimensions.

    Scanners divide by an integer and drop or complete the last pixel. If one integer explains
    both axes, it is the downsample; otherwise each axis has its own quotient.

    >>> true_downsample((32914, 46000), (8228, 11500))  # CMU-1.svs, OpenSlide says 4.00012
    (4.0, 4.0)
    >>> true_downsample((1000, 1000), (391, 500))
    (2.557544757033248, 2.0)
    """
    sizes = tuple(zip(extent_l0, shape_px, strict=True))
    quotients = tuple(whole / part for whole, part in sizes)
    mean = sum(quotients) / 2
    # At coarse levels several integers fit; those of scanners are mostly powers of two.
    for n in (2 ** round(math.log2(mean)), round(mean)):
        if all(abs(whole - n * part) < n for whole, part in sizes):
            return float(n), float(n)
    return quotients[0], quotients[1]


def _block(tile: str | None) -> int:
    """The side of a block: the tile's, unless it is unknown, below 64 px or above 1024 px."""
    side = int(positive(tile) or 0)
    return side if 64 <= side <= 1024 else 256


def find_mpp(path: Path, recorded: Properties, given: float | None) -> tuple[float, float]:
    """um/px of level 0, (y, x): the given one, else the recorded one.

    Raises SlideError where there is neither, or it is finer than a microscope resolves.
    """
    if given is not None:
        _check_given(given)
        return given, given
    y, x = (positive(recorded.get(f"openslide.mpp-{axis}")) for axis in "yx")
    if y is None or x is None:
        raise SlideError(f"{path}: the slide records no resolution; pass --mpp, e.g. --mpp 0.25")
    if min(y, x) < FINEST_UM:
        raise SlideError(
            f"{path}: the slide records {min(y, x):.3g} um/px, which is finer than any microscope "
            f"resolves ({FINEST_UM:g} um); pass --mpp, e.g. --mpp 0.25"
        )
    return y, x


def _check_given(mpp: float) -> None:
    if positive(mpp) is None:
        raise SlideError(f"--mpp {mpp:g}: expected micrometres per pixel above 0, e.g. 0.25")
    if mpp < FINEST_UM:
        raise SlideError(
            f"--mpp {mpp:g}: finer than any microscope resolves; expected at least {FINEST_UM:g} "
            "um/px, e.g. 0.25"
        )


def check_size(path: Path, extent_l0: tuple[int, int], mpp: tuple[float, float]) -> None:
    """Refuse a slide larger than glass can be, whose map would not fit the memory.

    Raises SlideError.
    """
    height, width = (size * um for size, um in zip(extent_l0, mpp, strict=True))
    if max(height, width) > LARGEST_UM or height * width > LARGEST_UM2:
        raise SlideError(
            f"{path}: {extent_l0[1]} x {extent_l0[0]} px of {max(mpp):.4g} um are "
            f"{width / 1e4:.4g} x {height / 1e4:.4g} cm, larger than any slide; if the resolution "
            "is wrong, pass --mpp, else the file is damaged"
        )


def find_warnings(
    recorded: Properties, mpp: tuple[float, float], power: float | None, *, given: bool
) -> tuple[str, ...]:
    """What looks wrong with the resolution, of which `given` says that --mpp overrides it."""
    own, found = math.sqrt(mpp[0] * mpp[1]), []
    if power is not None and _apart(own, 10 / power) > CONTRADICTION:
        found.append(
            f"{own:.4g} um/px contradicts the objective power of {power:g}x, where about "
            f"{10 / power:.4g} um/px is expected; if the resolution is wrong, pass --mpp"
        )
    if _apart(*mpp) > STRETCHED:
        found.append(
            f"{mpp[0]:.4g} um/px along y and {mpp[1]:.4g} along x: pixels are usually square; if "
            "the resolution is wrong, pass --mpp"
        )
    tiff = _tiff_mpp(recorded)
    if tiff and not given and recorded.get("aperio.MPP") and _apart(own, tiff) > CONTRADICTION:
        found.append(
            f"Aperio's description has {own:.4g} um/px, the TIFF's own resolution is {tiff:.4g}; "
            "the former is used, if it is wrong, pass --mpp"
        )
    return tuple(found)


def _apart(one: float, other: float) -> float:
    """By which factor two numbers above 0 differ."""
    return max(one / other, other / one)


def _tiff_mpp(recorded: Properties) -> float | None:
    """um/px by the resolution tags of a TIFF; None where there is none or it is no microscope's."""
    unit_um = {"centimeter": 1e4, "inch": 25400.0}.get(recorded.get("tiff.ResolutionUnit", ""))
    per_unit = positive(recorded.get("tiff.XResolution"))
    if unit_um is None or per_unit is None:
        return None
    mpp = unit_um / per_unit
    # Printers' resolutions such as 72 per inch say nothing about the slide.
    return mpp if FINEST_UM <= mpp <= 20 else None


def find_bounds(recorded: Properties, whole: Box) -> Box:
    """The scanned part of the slide, level-0 px; all of it where no usable bounds are recorded."""
    names = ("y", "x", "height", "width")
    values = [recorded.get(f"openslide.bounds-{name}") for name in names]
    try:
        y, x, height, width = (int(value or "") for value in values)
    except ValueError:
        return whole
    box = Box(y, x, y + height, x + width).clip(whole)
    return box if box.area else whole


def find_gap_bounds(recorded: Properties, bounds_l0: Box, level: Level) -> Box:
    """Where a transparent pixel of a level is missing, level px; elsewhere it is outside.

    Empty for formats that leave out glass on purpose.
    """
    if recorded.get("openslide.vendor") in GLASS_OMITTED:
        return Box(0, 0, 0, 0)
    (dy, dx), (height, width) = level.downsample, level.shape_px
    inner = Box(
        math.ceil(bounds_l0.y0 / dy),
        math.ceil(bounds_l0.x0 / dx),
        math.floor(bounds_l0.y1 / dy),
        math.floor(bounds_l0.x1 / dx),
    )
    # OpenSlide may mix the last row and column with what lies beyond.
    return inner.clip(Box(0, 0, height - 1, width - 1))


def positive(value: str | float | None) -> float | None:
    """A finite number above 0, else None."""
    try:
        number = float(value if value is not None else "nan")
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None
