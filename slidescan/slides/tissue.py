"""Tissue detection: which pixels of an overview of the slide hold tissue.

The mask decides what is scanned, so it errs towards tissue: scanning some glass only costs time.
A pixel is tissue when it is coloured *or* darker than the glass. Every channel is first divided by
the colour of the glass, so that a tint of the glass is no colour and uneven light scales all
channels alike. Otsu's threshold is not used: on a slide full of tissue it splits dark tissue from
pale, on an empty slide it splits noise, and beside dark tissue it loses pale tissue. Fixed
thresholds need only the colour of the glass, which is estimated, or else taken as pure white.

Selected on purpose: pen marks (there may be tissue under them), bubbles and dust where they are
coloured or dark, and the one-pixel rim of black areas. Not tissue: pure white (not imaged by the
scanner) and pure black (written by some scanners instead; a stained section lets some light
through). Lumina wider than two `FRAGMENT_UM` are not selected.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

FRAGMENT_UM = 50.0
"""A fragment this far across is never removed; a hole up to twice as wide is closed."""

CHROMA = 6
"""A pixel is stained if max minus min of its balanced channels (of 255) is at least this.

The value is low to keep fat: with 8, an overview of a Camelyon slide lost half of the pale fat that
is kept with 6. An overview pixel averages many pixels of the slide, so its noise is small: glass
with a standard deviation of 1.5 levels is not selected, with 2 it would be.
"""

DARKNESS = 40
"""How much darker than the glass (of 255) an unstained pixel must be; a vignette stays below."""

HE_LIKE = 0.25
"""On slides stained with H&E, green is the lowest channel of at least this share of the tissue.

Measured: 0.90 to 0.99 on four H&E slides of three scanners; 0.03 on DAB with haematoxylin, 0.01 on
an inverted slide, 0 on a grey one.
"""

BLACK = 8
"""A pixel whose channels are all at most this was not imaged."""

SPECK_SIDE = 5
SPECK_PX = 4
"""A pixel with fewer selected pixels in the square around it, itself included, is a speck."""

# Glass is bright and almost neutral. Stains absorb green most, so glass may be yellowish or bluish
# but hardly pink: otherwise, on a slide full of pale eosin, the eosin would be taken for glass.
GLASS_MIN, GLASS_TINT, GLASS_PINK = 200, 24, 6
# If less than this share of the slide looks like glass, it may be the soft rim of the tissue.
GLASS_SHARE = 0.005

STRIP_PX = 1 << 20  # pixels processed at a time: bounds the 16-bit copies to ten MB


Channel = NDArray[Any]


def tissue_mask(rgb: NDArray[np.uint8], um_per_px: float = 7.776) -> NDArray[np.bool_]:
    """Select the tissue of an overview, (H, W, 3) uint8 to (H, W) bool.

    Specks of up to three pixels are removed if they are smaller than `FRAGMENT_UM`; small holes are
    closed. The default of `um_per_px` is that of cells of stride 8 at 0.972 um/px. Needs five bytes
    a pixel and 30 MB in addition to `rgb`.
    """
    mask = np.zeros(rgb.shape[:2], np.bool_)
    if mask.size == 0:
        return mask
    glass = glass_colour(rgb)
    for rows in _strips(rgb):
        mask[rows] = _stained(rgb[rows], glass)
    across_px = int(FRAGMENT_UM / um_per_px)
    return _close(_without_specks(mask, min(SPECK_PX, across_px**2 // 4)), across_px)


def he_like(rgb: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float | None:
    """Return the share of the selected pixels whose lowest channel is green, as in H&E.

    `rgb` is (H, W, 3), `mask` (H, W). None where no pixel is selected.

    >>> pixels = np.array([[[200, 120, 180], [150, 100, 80], [90, 60, 140]]], np.uint8)
    >>> he_like(pixels, np.array([[True, True, False]]))
    0.5
    """
    selected = int(np.count_nonzero(mask))
    lowest = rgb[..., 1] < np.minimum(rgb[..., 0], rgb[..., 2])
    return int(np.count_nonzero(lowest & mask)) / selected if selected else None


def grow(mask: NDArray[np.bool_], cells: int) -> NDArray[np.bool_]:
    """Dilate by a square: every cell within `cells` rows and columns of a selected one.

    >>> grow(np.eye(1, 5, 2, dtype=bool), 1).astype(int)
    array([[0, 1, 1, 1, 0]])
    """
    return _any_near(np.pad(mask, cells), cells)


def glass_colour(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The (R, G, B) of the glass; pure white where too little glass is visible.

    It is the mean colour at the most frequent green level of the pixels that may be glass. Pure
    white pixels do not count: most of them were not imaged.
    """
    levels = np.zeros((256, 4))  # by green level: pixels, and the sums of R, G and B
    for rows in _strips(rgb):
        r, g, b = (rgb[rows][..., i].astype(np.int16) for i in range(3))
        low, high = _ends(r, g, b)
        maybe = (low >= GLASS_MIN) & (low < 255) & (high - low <= GLASS_TINT)
        maybe &= np.minimum(r, b) - g <= GLASS_PINK
        green = g[maybe]
        for i, weights in enumerate((None, r[maybe], green, b[maybe])):
            levels[:, i] += np.bincount(green, weights, minlength=256)
    # Five levels are summed, for noise and for the gaps that a contrast curve leaves.
    levels = _sums_of(np.pad(levels, ((2, 2), (0, 0))), 5, axis=0)
    count, *sums = levels[levels[:, 0].argmax()]
    if count < max(1.0, GLASS_SHARE * rgb[..., 0].size):
        return np.full(3, 255.0)
    glass: NDArray[np.float64] = np.array(sums) / count
    return glass


def _strips(rgb: NDArray[np.uint8]) -> Iterator[slice]:
    height, width = rgb.shape[:2]
    step = max(1, STRIP_PX // max(1, width))
    return (slice(y, min(y + step, height)) for y in range(0, height, step))


def _ends(r: Channel, g: Channel, b: Channel) -> tuple[Channel, Channel]:
    """Minimum and maximum of three channels; many times faster than along an axis of length 3."""
    return np.minimum(np.minimum(r, g), b), np.maximum(np.maximum(r, g), b)


def _stained(rgb: NDArray[np.uint8], glass: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Coloured or dark pixels, without those that were not imaged."""
    # Not clipped at 255: pale tissue may lie where the light is brighter than the mode.
    table = np.rint(np.arange(256)[:, None] * (255 / glass)).astype(np.int16)
    r, g, b = (table[:, i][rgb[..., i]] for i in range(3))
    low, high = _ends(r, g, b)
    darkest, brightest = _ends(*(rgb[..., i] for i in range(3)))
    imaged = (darkest < 255) & (brightest > BLACK)
    stained: NDArray[np.bool_] = imaged & ((high - low >= CHROMA) | (low <= 255 - DARKNESS))
    return stained


def _without_specks(mask: NDArray[np.bool_], least_px: int) -> NDArray[np.bool_]:
    """Remove pixels with fewer than `least_px` selected pixels around; thin strands stay."""
    count = np.pad(mask.view(np.uint8), SPECK_SIDE // 2)
    for axis in (0, 1):
        count = _sums_of(count, SPECK_SIDE, axis)
    kept: NDArray[np.bool_] = mask & (count >= least_px)
    return kept


def _close(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Fill holes and gaps up to `2 * radius` wide; beyond the image nothing is selected."""
    grown = _any_near(np.pad(mask, 2 * radius), radius)
    return ~_any_near(~grown, radius)


# In numpy: scipy.ndimage and skimage.morphology take longer to import than this does to run.


def _any_near(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Whether any pixel of the square of `radius` around is selected.

    (H, W) to (H - 2 radius, W - 2 radius): the pixels whose square lies within `mask`.
    """
    side = 2 * radius + 1
    for axis in (0, 1):
        seen = 1
        while seen < side:  # windows of `seen` pixels, which double
            step = min(seen, side - seen)
            length = mask.shape[axis] - step
            mask = _part(mask, 0, length, axis) | _part(mask, step, length, axis)
            seen += step
    return mask


def _sums_of(values: Channel, count: int, axis: int) -> Channel:
    """Sums of `count` neighbours along an axis, which gets shorter by `count - 1`."""
    length = values.shape[axis] - count + 1
    total = _part(values, 0, length, axis).copy()
    for first in range(1, count):
        total += _part(values, first, length, axis)
    return total


def _part(values: Channel, first: int, length: int, axis: int) -> Channel:
    """A view of `length` items from `first` on along an axis, 0 or 1."""
    return values[(slice(None),) * axis + (slice(first, first + length),)]
