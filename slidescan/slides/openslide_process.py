"""OpenSlide in a process of its own, which `handle` starts. The only importer of openslide.

(x, y) exists only here and in `handle`, where OpenSlide is called.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

from openslide import OpenSlide, OpenSlideError, __library_version__, lowlevel

from slidescan.tools.child_service import AnswerError, Methods, serve

Region = tuple[int, int, int, int]
"""(x, y) of level 0, width and height in pixels of the level that is read."""

PIXEL_BYTES = 4


class Reader:
    """One open slide at a time, shared by the threads of this process."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._path = ""
        self._slide: OpenSlide | None = None
        self._opening = threading.Lock()

    def methods(self) -> Methods:
        """What the parent can ask for."""
        return {
            "version": lambda: __library_version__,
            "open": self.open,
            "profile_shift": self.profile_shift,
            "read": self.read,
            "close": self.close,
        }

    def open(self, path: str) -> dict[str, Any]:
        """Open a slide, and describe it."""
        self._path, self._slide = path, None
        try:
            slide = self._opened()
            return {
                "properties": dict(slide.properties),
                "level_dimensions": slide.level_dimensions,
                "level_downsamples": slide.level_downsamples,
            }
        except OpenSlideError as error:
            raise AnswerError(one_line(error)) from error

    def close(self) -> None:
        """Close the slide; reads that have begun keep it open until they end."""
        self._slide = None

    def profile_shift(self) -> float | None:
        """`colour_profiles.profile_shift` of the slide; None without a profile."""
        from PIL import ImageCms

        from slidescan.slides.colour_profiles import profile_shift

        try:
            profile = self._opened().color_profile
        except (ImageCms.PyCMSError, OSError, OpenSlideError):
            return None
        return None if profile is None else profile_shift(profile)

    def read(self, level: int, regions: list[Region], start: int) -> list[str | None]:
        """Read regions of a level into the memory from byte `start` on, one behind the other.

        Returns the error of each, or None. Pixels are premultiplied ARGB, as OpenSlide has them.
        """
        errors: list[str | None] = []
        for x, y, width, height in regions:
            size = width * height * PIXEL_BYTES
            pixels = (ctypes.c_uint32 * (width * height)).from_buffer(self._memory, start)
            errors.append(self._read(pixels, level, (x, y, width, height)))
            start += size
        return errors

    def _read(self, pixels: Any, level: int, region: Region) -> str | None:
        slide: OpenSlide | None = None
        try:
            slide = self._opened()
            read_into(slide, pixels, level, region)
        except OpenSlideError:
            # A handle keeps its first error for good, and that may be of another thread's damaged
            # region: ask again on a new handle before blaming this region.
            try:
                fresh = OpenSlide(self._path)
                read_into(fresh, pixels, level, region)
            except OpenSlideError as error:
                self._replace(slide, None)
                return one_line(error)
            self._replace(slide, fresh)
        return None

    def _opened(self) -> OpenSlide:
        with self._opening:
            if self._slide is None:
                self._slide = OpenSlide(self._path)
            return self._slide

    def _replace(self, failed: OpenSlide | None, fresh: OpenSlide | None) -> None:
        """Share another handle; the failed one closes when the last thread has read with it."""
        with self._opening:
            if self._slide is failed:
                self._slide = fresh


def read_into(slide: OpenSlide, pixels: Any, level: int, region: Region) -> None:
    """`OpenSlide.read_region` without the copies: into memory of one's own, as it is.

    By the C function itself, as openslide-python declares it.
    """
    x, y, width, height = region
    lowlevel._read_region(slide._osr, pixels, x, y, level, width, height)


def one_line(error: Exception) -> str:
    """An error's message in one line."""
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    serve(lambda memory: Reader(memory).methods())
