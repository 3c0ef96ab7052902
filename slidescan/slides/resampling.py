"""Antialiased bicubic resampling in which every pixel depends on its position alone.

Pixel k of the output has its centre at (k + 0.5) * ratio - 0.5 in source pixels, whichever region
it is computed in. Pillow's `resize` is the same filter but cannot be used: it takes `box` as
float32 and derives its coefficients from the box's origin, so they would depend on the tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidescan.tools.windows import any_in_windows

ONE = 2**14
"""Weights are integers that sum to this. With 8-bit pixels every partial sum stays below 2**24,
where float32 is exact, so neither the order of summation nor fused multiply-add changes it."""

STRIP = 64
"""Output rows per sparse product: the float32 copy of their source rows stays in the cache."""


def keys(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cubic convolution kernel with a = -0.5 (Keys 1981, eq. 15); 0 from |x| = 2 on."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """The source pixels of outputs `start..stop` along one axis, and their weights.

    Output i reads source pixels [first[i], first[i] + weights.shape[1]), all of which lie in
    [start_src, stop_src). Where source and output share one grid, `weights` has a single
    column of `ONE` and `apply` copies nothing.
    """

    first: NDArray[np.int64]  # (outputs,), ascending
    weights: NDArray[np.int64]  # (outputs, taps), rows sum to ONE

    @classmethod
    def of(cls, start: int, stop: int, ratio: float) -> Taps:
        """The taps of outputs [start, stop) where one output pixel spans `ratio` source pixels.

        `start` may be negative. When shrinking, the kernel is stretched by `ratio`, as in Pillow's
        BICUBIC.

        >>> taps = Taps.of(10, 12, ratio=2.0)
        >>> taps.start_src, taps.stop_src, taps.weights.sum(axis=1).tolist()
        (17, 27, [16384, 16384])
        """
        k = np.arange(start, stop)
        if ratio == 1:
            return cls(k, np.full((len(k), 1), ONE))
        stretch = max(1.0, ratio)
        centre = (k + 0.5) * ratio - 0.5
        first = np.floor(centre - 2 * stretch).astype(np.int64) + 1
        at = first[:, None] + np.arange(int(np.ceil(4 * stretch)))
        weights = keys((at - centre[:, None]) / stretch)
        # cumsum always adds from left to right; the order of sum() depends on the shape.
        weights *= ONE / weights.cumsum(axis=1)[:, -1:]
        whole = np.rint(weights).astype(np.int64)
        whole[np.arange(len(k)), whole.argmax(axis=1)] += ONE - whole.sum(axis=1)
        return cls(first, whole)

    @property
    def start_src(self) -> int:
        """The first source pixel that any of these outputs reads."""
        return int(self.first[0])

    @property
    def stop_src(self) -> int:
        """The end (exclusive) of the source pixels that these outputs read."""
        return int(self.first[-1]) + int(self.weights.shape[1])

    def touched(self, source: NDArray[np.bool_], axis: int) -> NDArray[np.bool_]:
        """Return which outputs read a true source pixel, along an axis of a 2-D mask."""
        return any_in_windows(source, self.first - self.start_src, self.weights.shape[1], axis)

    def apply(self, source: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Sum source rows [start_src, stop_src) by weight, (n, ...) to (outputs, ...), uint8.

        Rounds half up and clips the kernel's overshoot to 0..255.
        """
        taps = self.weights.shape[1]
        if taps == 1:
            return source
        from scipy.sparse import csr_array  # a tenth of a second, which a slide may do without

        flat = source.reshape(len(source), -1)
        out = np.empty((len(self.first), flat.shape[1]), np.uint8)
        for i in range(0, len(out), STRIP):
            first = self.first[i : i + STRIP] - self.start_src
            start, stop = int(first[0]), int(first[-1]) + taps
            columns = (first - start)[:, None] + np.arange(taps)
            # Weights divided by a power of two stay exact.
            values = (self.weights[i : i + STRIP] / ONE).astype(np.float32)
            offsets = np.arange(len(first) + 1) * taps
            band = csr_array(
                (values.ravel(), columns.ravel().astype(np.int32), offsets.astype(np.int32)),
                shape=(len(first), stop - start),
            )
            sums = band @ flat[start:stop].astype(np.float32)
            sums += np.float32(0.5)
            np.clip(sums, 0, 255, out=sums)
            out[i : i + STRIP] = sums  # truncates, so with the 0.5 it rounds
        return out.reshape(len(out), *source.shape[1:])


def resample(source: NDArray[np.uint8], rows: Taps, columns: Taps) -> NDArray[np.uint8]:
    """Resample RGB pixels, first along y, then along x; (h, w, 3) to (H, W, 3) uint8.

    `source` holds exactly source rows [rows.start_src, rows.stop_src) and the columns likewise.
    Values are rounded to 8 bits after each axis. The caller fills what lies outside the image.
    """
    down = rows.apply(source)  # (H, w, 3)
    if columns.weights.shape[1] == 1:
        return down
    return _transpose(columns.apply(_transpose(down)))


def _transpose(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Swap rows and columns, (h, w, 3) to contiguous (w, h, 3).

    Pixels are moved as 3-byte items, which takes numpy half the time of three single bytes.
    """
    pixels = np.ascontiguousarray(rgb).view("V3")[..., 0]
    return np.ascontiguousarray(pixels.T)[..., None].view(np.uint8)
