"""What a slide records about itself: resolution, levels, scanned area, fingerprint.

Frames: `_l0` is the slide's level 0; *level* pixels are those of one pyramid level. Pairs are
(y, x).
"""

from __future__ import annotations

import hashlib
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

ENDS_BYTES = 2**20

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
    sizes: Sequence[tuple[int, int]],
    reported: Sequence[float],
    recorded: Properties,
    mpp: tuple[float, float],
) -> tuple[Level, ...]:
    """Describe each level, finest first.

    `sizes` are (width, height) and `reported` the downsamples, as OpenSlide gives them.
    """
    levels = []
    for index, (width, height) in enumerate(sizes):
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
    side = int(tile or 0)
    return side if 64 <= side <= 1024 else 256


def find_mpp(path: Path, recorded: Properties, given: float | None) -> tuple[float, float]:
    """um/px of level 0, (y, x): the given one, else the recorded one.

    Raises SlideError where there is neither.
    """
    if given is not None:
        return given, given
    y, x = (positive(recorded.get(f"openslide.mpp-{axis}")) for axis in "yx")
    if y is None or x is None:
        raise SlideError(f"{path}: the slide records no resolution; pass --mpp, e.g. --mpp 0.25")
    return y, x


def find_warnings(mpp: tuple[float, float], power: float | None) -> tuple[str, ...]:
    """What looks wrong with the resolution."""
    if power is None:
        return ()
    own, expected = math.sqrt(mpp[0] * mpp[1]), 10 / power
    if max(own / expected, expected / own) <= CONTRADICTION:
        return ()
    return (
        f"{own:.4g} um/px contradicts the objective power of {power:g}x, where about "
        f"{expected:.4g} um/px is expected; if the resolution is wrong, pass --mpp",
    )


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


def find_fingerprint(path: Path, recorded: Properties) -> str:
    """OpenSlide's quickhash or, where it has none, SHA-256 of the size and both ends."""
    quickhash = recorded.get("openslide.quickhash-1")
    if quickhash:
        return f"quickhash-1:{quickhash}"
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(ENDS_BYTES))
        file.seek(max(0, size - ENDS_BYTES))
        digest.update(file.read())
    return f"sha256-ends:{digest.hexdigest()}"


def positive(value: str | float | None) -> float | None:
    """A finite number above 0, else None."""
    try:
        number = float(value if value is not None else "nan")
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None
