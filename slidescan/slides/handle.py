"""OpenSlide, opened once in each process and shared by its threads. The only importer of openslide.

(x, y) exists only here, where OpenSlide is called.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from openslide import OpenSlide, OpenSlideError, __library_version__

from slidescan.errors import SlideError
from slidescan.tools.regular_files import open_regular

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsProfile

LIBRARY = __library_version__
"""OpenSlide's version."""

FORMATS = (
    *("Aperio (.svs, .tif)", "DICOM (.dcm)", "Hamamatsu (.ndpi, .vms, .vmu)", "Leica (.scn)"),
    *("MIRAX (.mrxs)", "Philips (.tiff)", "Sakura (.svslide)", "Trestle (.tif)"),
    *("Ventana (.bif, .tif)", "Zeiss (.czi)", "tiled TIFF (.tif)"),
)
"""What OpenSlide 4 opens, by openslide.org/formats; the library offers no such list."""


Handle: TypeAlias = OpenSlide
"""An open slide, as OpenSlide's Python library has it."""


CONVERTIBLE = frozenset({".tif", ".tiff", ".jpg", ".jpeg", ".png", ".webp", ".jp2"})
"""Suffixes of images that OpenSlide opens only as tiled TIFF of certain compressions, if at all."""


class ReadError(Exception):
    """OpenSlide could not read a region; the message is its own."""


class Handles:
    """The OpenSlide handles of one file, one for each process.

    A forked child that shared its parent's handle would share file positions, so each process
    opens its own at its first read.
    """

    def __init__(self, path: Path, handle: OpenSlide) -> None:
        self.path = path
        self._handles: dict[int, OpenSlide] | None = {os.getpid(): handle}

    def close(self) -> None:
        """Close the file once reads in other threads have ended; no more can be started."""
        # Dropping the reference, not handle.close(): that frees it under a read in progress.
        self._handles = None

    def read(
        self, level: int, y_l0: int, x_l0: int, shape_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """RGBA of a region of a level, (h, w, 4) uint8, by its origin on level 0.

        Raises ReadError where OpenSlide cannot read it.
        """
        request = (x_l0, y_l0), level, shape_px[::-1]
        handle = self._handle()
        try:
            return np.asarray(handle.read_region(*request))
        except OpenSlideError:
            # A handle keeps its first error for good, and that may be of another thread's damaged
            # region: ask again on a new handle before blaming this region.
            self._drop(handle)
        handle = open_handle(self.path)
        try:
            pixels = np.asarray(handle.read_region(*request))
        except OpenSlideError as error:
            raise ReadError(_one_line(error)) from error
        self._keep(handle)
        return pixels

    def _handle(self) -> OpenSlide:
        """The handle of this process, opened where there is none."""
        handles = self._handles
        if handles is None:
            raise ValueError(f"{self.path}: read after close()")
        handle = handles.get(os.getpid())
        return self._keep(open_handle(self.path)) if handle is None else handle

    def _keep(self, handle: OpenSlide) -> OpenSlide:
        """Share a good handle; if another thread was first, its handle stays and is returned."""
        handles = self._handles
        return handle if handles is None else handles.setdefault(os.getpid(), handle)

    def _drop(self, failed: OpenSlide) -> None:
        """Stop sharing this handle; it closes when the last thread that reads with it is done."""
        handles = self._handles
        if handles is not None and handles.get(os.getpid()) is failed:
            handles.pop(os.getpid(), None)


def open_handle(path: Path) -> OpenSlide:
    """Open a slide. Raises SlideError: no such file, not readable, not a slide."""
    try:
        # OpenSlide does not distinguish a file that it may not read from one that is no slide.
        open_regular(path).close()
    except FileNotFoundError as error:
        raise SlideError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise SlideError(f"{path}: is a folder; name the slide's file") from error
    except OSError as error:
        raise SlideError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return OpenSlide(path)
    except OpenSlideError as error:
        hint = ""
        if path.suffix.lower() == ".mrxs" and not path.with_suffix("").is_dir():
            hint = f"; an MRXS slide needs its folder {path.with_suffix('').name}/ beside it"
        elif path.suffix.lower() in CONVERTIBLE:
            hint = (
                "; convert it to a tiled TIFF with libvips, e.g. vips tiffsave "
                f"{path.name} tiled.tif --tile --pyramid --compression jpeg, and pass --mpp if the "
                "resolution is lost"
            )
        raise SlideError(
            f"{path}: not a slide that OpenSlide can open: {_one_line(error)}{hint}"
        ) from error


def colour_profile(handle: Handle) -> ImageCmsProfile | None:
    """The ICC profile of a slide; None where it has none, or one that cannot be read."""
    if "openslide.icc-size" not in handle.properties:
        return None
    from PIL import ImageCms

    try:
        return handle.color_profile
    except (ImageCms.PyCMSError, OSError, OpenSlideError):
        return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
