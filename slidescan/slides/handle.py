"""Opening a slide's file, and what an open one offers.

(x, y) exists only here, in `contained` and in `openslide_process`, where OpenSlide is called.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from slidescan.errors import SlideError
from slidescan.slides.contained import (
    ContainedSlide,
    Pixels,
    ReadError,
    Region,
    library_version,
)
from slidescan.tools.child_process import CallError, ChildEndedError
from slidescan.tools.regular_files import open_regular

__all__ = ["FORMATS", "Handle", "Pixels", "ReadError", "Region", "library_version", "open_handle"]

FORMATS = (
    *("Aperio (.svs, .tif)", "DICOM (.dcm)", "Hamamatsu (.ndpi, .vms, .vmu)", "Leica (.scn)"),
    *("MIRAX (.mrxs)", "Philips (.tiff)", "Sakura (.svslide)", "Trestle (.tif)"),
    *("Ventana (.bif, .tif)", "Zeiss (.czi)", "tiled TIFF (.tif)"),
)
"""What OpenSlide 4 opens, by openslide.org/formats; the library offers no such list."""

CONVERTIBLE = frozenset({".tif", ".tiff", ".jpg", ".jpeg", ".png", ".webp", ".jp2"})
"""Suffixes of images that OpenSlide opens only as tiled TIFF of certain compressions, if at all."""


class Handle(Protocol):
    """An open slide."""

    @property
    def properties(self) -> Mapping[str, str]:
        """What OpenSlide says of it."""

    @property
    def level_dimensions(self) -> Sequence[tuple[int, int]]:
        """(width, height) of each level."""

    @property
    def level_downsamples(self) -> Sequence[float]:
        """What OpenSlide divides locations by."""

    def profile_shift(self) -> float | None:
        """`colour_profiles.profile_shift` of its ICC profile."""

    def read(
        self, level: int, regions: Sequence[Region]
    ) -> Generator[Pixels | ReadError, None, None]:
        """Read regions of a level, in order; each is valid until the next is asked for.

        Safe to call from several threads.
        """

    def close(self) -> None:
        """Close the file once reads in other threads have ended; no more can be started."""


def open_handle(path: Path) -> Handle:
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
        return ContainedSlide(path)
    except ChildEndedError as error:
        raise SlideError(
            f"{path}: OpenSlide crashed while opening it ({error}); the file is damaged, compare "
            "it with its source"
        ) from error
    except OSError as error:
        raise SlideError(
            f"{path}: the process that reads slides cannot be started: {error}"
        ) from error
    except CallError as error:
        hint = ""
        if path.suffix.lower() == ".mrxs" and not path.with_suffix("").is_dir():
            hint = f"; an MRXS slide needs its folder {path.with_suffix('').name}/ beside it"
        elif path.suffix.lower() in CONVERTIBLE:
            hint = (
                "; convert it to a tiled TIFF with libvips, e.g. vips tiffsave "
                f"{path.name} tiled.tif --tile --pyramid --compression jpeg, and pass --mpp if the "
                "resolution is lost"
            )
        raise SlideError(f"{path}: not a slide that OpenSlide can open: {error}{hint}") from error
