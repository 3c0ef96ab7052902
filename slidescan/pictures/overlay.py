"""Pictures of a slide beside the slide with its tumour probabilities as an overlay."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from slidescan.geometry import Box

# Probability, red, green, blue, opacity. Normal tissue is not tinted; 0.5 is yellow.
_RAMP = np.array(
    [
        (0.0, 255, 237, 120, 0.0),
        (0.25, 255, 237, 120, 0.15),
        (0.5, 254, 196, 30, 0.45),
        (0.75, 240, 90, 20, 0.6),
        (1.0, 178, 0, 38, 0.75),
    ]
)
_RIM = np.array([0, 114, 178], np.uint8)
_GAP, _FOOT = 16, 64
_LEAST = 240  # px, at least, for the key and its text


def colourise(rgb: NDArray[np.uint8], probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Overlay `probability` (H, W), NaN where not scanned, on `rgb` (H, W, 3), with an outline."""
    scanned = np.isfinite(probability)
    p = np.where(scanned, probability, 0)
    at, *channels, opacity = _RAMP.T
    alpha = np.interp(p, at, opacity)[..., None]
    colour = np.stack([np.interp(p, at, channel) for channel in channels], axis=-1)
    out: NDArray[np.uint8] = np.rint(rgb * (1 - alpha) + colour * alpha).astype(np.uint8)
    rim = np.zeros_like(scanned)
    rim[1:] |= scanned[1:] != scanned[:-1]
    rim[:, 1:] |= scanned[:, 1:] != scanned[:, :-1]
    out[rim] = _RIM
    return out


def spread(values: NDArray[np.float32], box: Box, step: float) -> NDArray[np.float32]:
    """Return the cell of each pixel of `box`: the one that contains the pixel's centre.

    `step` is cells per pixel.
    """
    ranges = (np.arange(box.y0, box.y1), np.arange(box.x0, box.x1))
    rows, columns = (
        np.minimum(((pixels + 0.5) * step).astype(int), cells - 1)
        for pixels, cells in zip(ranges, values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]


def picture(
    rgb: NDArray[np.uint8], probability: NDArray[np.float32], um_per_px: float, title: str
) -> Image.Image:
    """Return slide and overlay side by side, above a scale bar, a colour key and a title."""
    height, width = rgb.shape[0], max(rgb.shape[1], _LEAST)
    sheet = Image.new("RGB", (2 * width + _GAP, height + _FOOT), "white")
    sheet.paste(Image.fromarray(rgb), (0, 0))
    sheet.paste(Image.fromarray(colourise(rgb, probability)), (width + _GAP, 0))
    _scale_bar(sheet, um_per_px, width)
    _key(sheet, width + _GAP, width, height)
    font = ImageFont.load_default(14)
    ImageDraw.Draw(sheet).text((4, height + 40), title, "black", font)
    return sheet


def _scale_bar(sheet: Image.Image, um_per_px: float, width: int) -> None:
    """Draw a bar of 1, 2 or 5 times a power of ten micrometres, about a fifth of the slide."""
    most = 0.25 * width * um_per_px
    power = 10.0 ** np.floor(np.log10(most))
    length = max(n * power for n in (1, 2, 5) if n * power <= most)
    y, draw = sheet.height - _FOOT + 14, ImageDraw.Draw(sheet)
    draw.line((4, y, 4 + length / um_per_px, y), "black", 4)
    label = f"{length:g} um" if length < 1000 else f"{length / 1000:g} mm"
    draw.text((4, y + 4), label, "black", ImageFont.load_default(14))


def _key(sheet: Image.Image, left: int, width: int, top: int) -> None:
    """Draw the colours of 0 to 1 on white."""
    across = min(width - 8, 360)
    ramp = np.tile(np.linspace(0, 1, across, dtype=np.float32), (14, 1))
    white = np.full((14, across, 3), 255, np.uint8)
    sheet.paste(Image.fromarray(colourise(white, ramp)), (left, top + 8))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    draw.rectangle((left, top + 8, left + across, top + 22), outline="grey")
    for share, anchor in ((0.0, "la"), (0.5, "ma"), (1.0, "ra")):
        draw.text((left + share * across, top + 24), f"{share:g}", "black", font, anchor)
    draw.text((left, top + 42), "P(tumour); blue line: scanned", "black", font)
