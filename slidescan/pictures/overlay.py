"""Slides with their tumour probabilities as an overlay: colours, scale bar and key."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from slidescan.geometry import Box
from slidescan.pictures.colours import DEFAULT, Colours, colours

_RIM = np.array([0, 114, 178], np.uint8)
GAP_PX, FOOT_PX = 16, 84
_SIDE_FOOT_PX = 64  # of two pictures, where the title has room beside the key
_LEAST_PX = 240  # at least, for the key and its text


@dataclass(frozen=True, slots=True)
class Look:
    """How probabilities are drawn."""

    colours: Colours = field(default_factory=lambda: colours(DEFAULT))
    opacity: float | None = None
    """from 0 to 1; None: the usual one of these colours"""
    threshold: float | None = None
    """Cells of a lower probability are not drawn."""

    @property
    def shown_opacity(self) -> float:
        """The opacity that is used."""
        return self.colours.opacity if self.opacity is None else self.opacity

    def drawn(self, probability: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which cells are drawn; not those that were not scanned, which are NaN."""
        return probability >= (0 if self.threshold is None else self.threshold)


def colourise(
    rgb: NDArray[np.uint8],
    probability: NDArray[np.float32],
    look: Look | None = None,
    above: NDArray[np.float32] | None = None,
    *,
    outline: bool = True,
) -> NDArray[np.uint8]:
    """Overlay `probability` (H, W), NaN where not scanned, on `rgb` (H, W, 3).

    `outline` draws a line around what was scanned. `above` is the row of probabilities over the
    first one, (W,), where there is one.
    """
    look = look or Look()
    entries = look.colours.entries(probability)
    alpha = np.rint(look.colours.cover * look.shown_opacity * 256).astype(np.int32)[entries]
    alpha *= look.drawn(probability)
    out = rgb.astype(np.int32)
    out += ((look.colours.rgb[entries] - out) * alpha[..., None] + 128) >> 8
    if outline:
        out[_rim(np.isfinite(probability), above)] = _RIM
    return out.astype(np.uint8)


def _rim(scanned: NDArray[np.bool_], above: NDArray[np.float32] | None) -> NDArray[np.bool_]:
    rim = np.zeros_like(scanned)
    rim[1:] |= scanned[1:] != scanned[:-1]
    rim[:, 1:] |= scanned[:, 1:] != scanned[:, :-1]
    if above is not None:
        rim[0] |= scanned[0] != np.isfinite(above)
    return rim


def alone(probability: NDArray[np.float32], look: Look) -> NDArray[np.uint8]:
    """The colours of `probability` (H, W) by themselves, (H, W, 4); transparent where not drawn."""
    entries = look.colours.entries(probability)
    out = np.empty((*probability.shape, 4), np.uint8)
    out[..., :3] = look.colours.rgb[entries]
    out[..., 3] = np.rint(look.colours.cover * look.shown_opacity * 255).astype(np.uint8)[entries]
    out[~look.drawn(probability)] = 0
    return out


def sampled(cells: tuple[int, int], box: Box, step: float) -> list[NDArray[np.intp]]:
    """The rows and columns of the cells that hold the centres of the pixels of `box`.

    `cells` is how many there are, `step` cells per pixel.
    """
    ranges = (np.arange(box.y0, box.y1), np.arange(box.x0, box.x1))
    return [
        np.clip(((pixels + 0.5) * step).astype(int), 0, count - 1)
        for pixels, count in zip(ranges, cells, strict=True)
    ]


def spread(values: NDArray[np.float32], box: Box, step: float) -> NDArray[np.float32]:
    """Return the cell of each pixel of `box`: the one that contains the pixel's centre.

    `step` is cells per pixel.
    """
    return values[np.ix_(*sampled((values.shape[0], values.shape[1]), box, step))]


class Sheet:
    """One or two pictures of a part of a slide above a scale bar, a colour key and a title.

    The pictures are pasted by the caller, strip by strip; `image` holds 4 bytes a pixel.
    """

    def __init__(self, shape_px: tuple[int, int], pictures: int, um_per_px: float) -> None:
        """`shape_px` (height, width) of each picture."""
        self.height, self.width = shape_px[0], max(shape_px[1], _LEAST_PX * 2 // pictures)
        self.foot = FOOT_PX if pictures == 1 else _SIDE_FOOT_PX
        width = pictures * self.width + (pictures - 1) * GAP_PX
        self.image = Image.new("RGB", (width, self.height + self.foot), "white")
        self._pictures = pictures
        self._scale_bar(shape_px[1], um_per_px)

    def paste(self, picture: int, y: int, pixels: NDArray[np.uint8]) -> None:
        """Put a strip (h, w, 3) into picture 0 or 1, `y` px from the top."""
        self.image.paste(Image.fromarray(pixels), (picture * (self.width + GAP_PX), y))

    def finish(self, title: str, look: Look) -> Image.Image:
        """Draw the key and the title below."""
        left = self.width + GAP_PX if self._pictures == 2 else self.width // 2
        self._key(left, min(self.image.width - left - 8, 360), look)
        y = self.image.height - 24
        ImageDraw.Draw(self.image).text((4, y), title, "black", ImageFont.load_default(14))
        return self.image

    def _scale_bar(self, width: int, um_per_px: float) -> None:
        """Draw 1, 2 or 5 times a power of ten micrometres, at most a quarter of the slide."""
        most = 0.25 * width * um_per_px
        power = 10.0 ** np.floor(np.log10(most))
        length = max(n * power for n in (1, 2, 5) if n * power <= most)
        y, draw = self.height + 14, ImageDraw.Draw(self.image)
        draw.line((4, y, 4 + length / um_per_px, y), "black", 4)
        label = f"{length:g} um" if length < 1000 else f"{length / 1000:g} mm"
        draw.text((4, y + 4), label, "black", ImageFont.load_default(14))

    def _key(self, left: int, across: int, look: Look) -> None:
        """Draw the colours of 0 to 1 on white."""
        ramp = np.tile(np.linspace(0, 1, across, dtype=np.float32), (14, 1))
        white, top = np.full((14, across, 3), 255, np.uint8), self.height
        self.image.paste(Image.fromarray(colourise(white, ramp, look)), (left, top + 8))
        draw, font = ImageDraw.Draw(self.image), ImageFont.load_default(14)
        draw.rectangle((left, top + 8, left + across, top + 22), outline="grey")
        for share, anchor in ((0.0, "la"), (0.5, "ma"), (1.0, "ra")):
            draw.text((left + share * across, top + 24), f"{share:g}", "black", font, anchor)
        shown = "" if look.threshold is None else f" from {look.threshold:.3g}"
        draw.text((left, top + 42), f"P(tumour){shown}; blue line: scanned", "black", font)
