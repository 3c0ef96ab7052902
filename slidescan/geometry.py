"""Fields of view, boxes and the heatmap's grid: integers only, no pixels.

Frames: *scan plane* pixels are the slide resampled to the model's mpp with its origin at the
slide's level-0 (0, 0); *cells* index the heatmap. Boxes are half-open and ordered (y, x).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PATCH_PX = 96
"""Side of a PatchCamelyon patch (Veeling et al. 2018)."""

LABEL_PX = 32
"""Side of the central square that a patch's label describes."""

SMALLEST_STRIDE_PX = 2
"""The smallest stride of a heatmap. Patches are centred on their cells, so strides are even."""


@dataclass(frozen=True, slots=True)
class Field:
    """The pixels output i of a valid network sees: [start + i*stride, start + i*stride + size).

    >>> stem = Field().then(kernel=4, stride=2)
    >>> stem.then(kernel=3)
    Field(start=0, size=8, stride=2)
    >>> stem.outputs(96), stem.extent(47)
    (47, 96)
    """

    start: int = 0
    size: int = 1
    stride: int = 1

    def then(self, kernel: int, stride: int = 1) -> Field:
        """Return the field after one more valid operation of this kernel and stride."""
        return Field(self.start, self.size + (kernel - 1) * self.stride, self.stride * stride)

    def crop(self, outputs: int) -> Field:
        """Return the field after `outputs` outputs are cut off at both ends.

        The cut pixels still belong to the field, so that `outputs` stays correct. For a strided
        operation that follows, this is the same as a kernel larger by `2 * outputs`.
        """
        return self.then(kernel=2 * outputs + 1)

    def outputs(self, extent_px: int) -> int:
        """Return how many outputs `extent_px` pixels give; 0 where the field does not fit."""
        return max(0, (extent_px - self.size) // self.stride + 1)

    def extent(self, outputs: int) -> int:
        """Return the fewest pixels that give `outputs` outputs (at least one)."""
        return (outputs - 1) * self.stride + self.size


@dataclass(frozen=True, slots=True)
class Box:
    """Half-open rectangle [y0, y1) x [x0, x1); its owner names the frame."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def area(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def clip(self, other: Box) -> Box:
        """Return the part of this box inside `other`; empty (shape 0) where they do not meet."""
        y0, x0 = max(self.y0, other.y0), max(self.x0, other.x0)
        return Box(y0, x0, max(y0, min(self.y1, other.y1)), max(x0, min(self.x1, other.x1)))

    def shift(self, dy: int, dx: int) -> Box:
        return Box(self.y0 + dy, self.x0 + dx, self.y1 + dy, self.x1 + dx)

    def split(self, side: int) -> Iterator[Box]:
        """Yield squares of `side` from the upper left, row by row; the last ones are cut."""
        for y0 in range(self.y0, self.y1, side):
            for x0 in range(self.x0, self.x1, side):
                yield Box(y0, x0, min(y0 + side, self.y1), min(x0 + side, self.x1))


@dataclass(frozen=True, slots=True)
class Grid:
    """The heatmap's cells over a scan plane of `extent_px` (height, width).

    Cell (r, c) covers pixels [r*stride, (r+1)*stride) x [c*stride, (c+1)*stride). Its field of
    view is the `field_px` square with the same centre, so the map lies on the slide without a
    shift.

    >>> Grid((100, 17)).shape
    (13, 3)
    >>> Grid((100, 17)).pixels(Box(0, 0, 1, 1))
    Box(y0=-44, x0=-44, y1=52, x1=52)
    """

    extent_px: tuple[int, int]
    stride: int = 8
    field_px: int = PATCH_PX

    def __post_init__(self) -> None:
        if self.stride % 2 or self.field_px % 2 or min(self.stride, self.field_px) < 2:
            raise ValueError(f"stride {self.stride} and field {self.field_px} must be even")

    @property
    def shape(self) -> tuple[int, int]:
        """Cells (rows, columns): ceil(extent / stride)."""
        height, width = self.extent_px
        return -(-height // self.stride), -(-width // self.stride)

    @property
    def cells(self) -> Box:
        return Box(0, 0, *self.shape)

    @property
    def field(self) -> Field:
        """The field of view of cells along one axis; that of cell 0 starts outside the slide."""
        return Field((self.stride - self.field_px) // 2, self.field_px, self.stride)

    def pixels(self, cells: Box) -> Box:
        """Return the scan-plane pixels from which the network gives exactly these cells."""
        field = self.field
        height, width = (field.extent(n) for n in cells.shape)
        y0 = field.start + cells.y0 * field.stride
        x0 = field.start + cells.x0 * field.stride
        return Box(y0, x0, y0 + height, x0 + width)
