"""A stand-in for an open slide: one level, in memory."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from slidescan.slides.handle import Pixels, Region


class FakeHandle:
    """One level of RGBA pixels (h, w, 4); `properties` are OpenSlide's, with _ for -.

    Refuses what a well-behaved caller does not ask for.
    """

    def __init__(self, rgba: NDArray[np.uint8], **properties: str) -> None:
        self.properties = {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.25"}
        self.properties["openslide.quickhash-1"] = "fake"
        self.properties |= {f"openslide.{k.replace('_', '-')}": v for k, v in properties.items()}
        self.level_dimensions = [(rgba.shape[1], rgba.shape[0])]
        self.level_downsamples = [1.0]
        self.reads: list[Region] = []
        self._rgba = rgba

    def profile_shift(self) -> float | None:
        return None

    def read(self, level: int, regions: Sequence[Region]) -> Generator[Pixels, None, None]:
        assert level == 0
        tall, wide, _ = self._rgba.shape
        for x, y, width, height in regions:
            assert 0 <= x < x + width <= wide, "read outside the slide"
            assert 0 <= y < y + height <= tall, "read outside the slide"
            self.reads.append((x, y, width, height))
            rgba = self._rgba[y : y + height, x : x + width].astype(np.uint32)
            rgb = (rgba[..., :3] * rgba[..., 3:] + 127) // 255
            yield np.dstack((rgb[..., ::-1], rgba[..., 3])).astype(np.uint8)

    def close(self) -> None: ...
