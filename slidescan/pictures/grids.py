"""Sheets of patches with captions, and of the worst mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from slidescan.geometry import LABEL_PX
from slidescan.statistics.arrays import Labels, Probabilities
from slidescan.statistics.mistakes import worst_mistakes
from slidescan.tools.atomic_files import replacing

Tile: TypeAlias = tuple[NDArray[np.uint8], str]
"""RGB (H, W, 3) and its caption, of one line or several."""

WIDTH_PX = 1600
"""Patches are enlarged by a whole factor, 2 to 4, so that a sheet has about this width."""
LEAST_PX = 480
"""Width of a sheet, at least, for its title."""
GAP_PX = 12
FONT_PX, TITLE_PX = 15, 20
LINE_PX, HEADING_PX = 18, 30
INK, PAPER = (30, 30, 30), (255, 255, 255)
# Yellow inside black is visible on white glass and on purple nuclei, also to the colour-blind.
MARK, MARK_EDGE = (255, 221, 0), (0, 0, 0)


def grid(
    path: Path,
    tiles: Sequence[Tile],
    columns: int,
    title: str,
    *,
    mark: bool,
) -> None:
    """Write a PNG sheet of patches of one size, row by row, each above its caption.

    Patches are enlarged by nearest neighbour, which keeps every pixel. `mark` draws a square
    around the central 32 x 32 px, which the label is about. Raises `WriteError`.
    """
    _save(path, sheet([("", tiles)], columns, title, mark=mark))


def mistakes(
    path: Path,
    pixels: NDArray[np.uint8],
    labels: Labels,
    probabilities: Probabilities,
    ids: Sequence[str],
    most: int = 40,
    threshold: float = 0.5,
    title: str = "Worst mistakes on the validation patches; the label is about the square of 32 px",
) -> None:
    """Write a PNG of the worst mistakes among the given patches, (N, 96, 96, 3).

    Each has its probability of tumour and the beginning of its id as caption. Raises `WriteError`.
    """
    sections = [
        (
            f"{kind}: {len(rows)} shown, worst first" if len(rows) else f"{kind}: none",
            [(pixels[i], f"p {_short(probabilities[i])}\n{ids[i][:16]}") for i in rows],
        )
        for kind, rows in zip(
            ("False positives (labelled normal)", "False negatives (labelled tumour)"),
            worst_mistakes(labels, probabilities, most, threshold),
            strict=True,
        )
    ]
    _save(path, sheet(sections, 10, title, mark=True))


def _short(p: float) -> str:
    """Return as many digits as distinguish p from 0 and 1."""
    return f"{p:.3f}" if 0.001 <= p <= 0.999 else f"{p:.2g}" if p < 0.5 else f"1 - {1 - p:.1g}"


@dataclass(frozen=True, slots=True)
class _Layout:
    """Positions on a sheet, in its pixels."""

    columns: int
    scale: int
    side: tuple[int, int]
    """(height, width) of an enlarged patch."""
    caption: int
    """Height of the captions."""

    @classmethod
    def of(cls, tiles: Sequence[Tile], columns: int) -> _Layout:
        height, width = tiles[0][0].shape[:2] if tiles else (0, 96)
        columns = max(1, min(columns, len(tiles) or 8))
        scale = min(4, max(2, WIDTH_PX // (columns * width)))
        lines = max((text.count("\n") + 1 for _, text in tiles if text), default=0)
        return cls(columns, scale, (height * scale, width * scale), lines * LINE_PX)

    @property
    def pitch(self) -> tuple[int, int]:
        """Distance from one patch to the next, down and across."""
        return self.side[0] + self.caption + GAP_PX, self.side[1] + GAP_PX

    def height(self, heading: str, count: int) -> int:
        """Return the height of one section."""
        return (HEADING_PX if heading else 0) + -(-count // self.columns) * self.pitch[0]

    def places(self, count: int) -> Iterator[tuple[int, int]]:
        """Yield (y, x) of each patch within its section."""
        for i in range(count):
            row, column = divmod(i, self.columns)
            yield row * self.pitch[0], GAP_PX + column * self.pitch[1]


def sheet(
    sections: Sequence[tuple[str, Sequence[Tile]]], columns: int, title: str, *, mark: bool
) -> Image.Image:
    """Return an image of sections of patches, each below its heading ("": none)."""
    layout = _Layout.of([tile for _, tiles in sections for tile in tiles], columns)
    width = max(LEAST_PX, GAP_PX + layout.columns * layout.pitch[1])
    top = GAP_PX + HEADING_PX
    height = top + sum(layout.height(heading, len(tiles)) for heading, tiles in sections)
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    _write(draw, (GAP_PX, GAP_PX), title, TITLE_PX, width - 2 * GAP_PX)
    for heading, tiles in sections:
        if heading:
            _write(draw, (GAP_PX, top), heading, FONT_PX + 2, width - 2 * GAP_PX)
        start = top + (HEADING_PX if heading else 0)
        for (y, x), tile in zip(layout.places(len(tiles)), tiles, strict=True):
            _place(image, draw, (start + y, x), tile, layout, mark=mark)
        top += layout.height(heading, len(tiles))
    return image


def _place(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    tile: Tile,
    layout: _Layout,
    *,
    mark: bool,
) -> None:
    (y, x), (height, width) = at, layout.side
    patch = Image.fromarray(np.ascontiguousarray(tile[0]))
    image.paste(patch.resize((width, height), Image.Resampling.NEAREST), (x, y))
    if mark:
        half = LABEL_PX // 2 * layout.scale
        middle = np.array((x + width // 2, y + height // 2))
        for beyond, colour, line in ((3, MARK_EDGE, 1), (2, MARK, 2)):
            low, high = middle - half - beyond, middle + half + beyond - 1
            draw.rectangle((*low.tolist(), *high.tolist()), outline=colour, width=line)
    for i, text in enumerate(tile[1].split("\n")):
        _write(draw, (x, y + height + i * LINE_PX), text, FONT_PX, width)


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, width: int
) -> None:
    """Draw one line of text, shortened where it is wider than `width`."""
    font = ImageFont.load_default(size)
    if font.getlength(text) > width:
        while text and font.getlength(text + "...") > width:
            text = text[:-1]
        text += "..."
    draw.text(at, text, INK, font)


def _save(path: Path, image: Image.Image) -> None:
    with replacing(path) as beside:
        # Takes a quarter of the time of the default level; the file is a little larger.
        image.save(beside, compress_level=1)
