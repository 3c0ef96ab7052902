"""Whole slides, read at exactly the resolution asked for. The only importer of openslide.

Frames: `_l0` is the slide's level 0; *level* pixels are those of one pyramid level; the *scan
plane* is the slide resampled to the wanted mpp. All share the origin at level-0 (0, 0). Everything
is (y, x) here; (x, y) exists only where OpenSlide is called.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from openslide import OpenSlide, OpenSlideError, __library_version__

from slidescan.errors import SlideError
from slidescan.geometry import Box
from slidescan.slides.resampling import Taps, resample

LIBRARY = __library_version__
"""OpenSlide's version."""

FORMATS = (
    *("Aperio (.svs, .tif)", "DICOM (.dcm)", "Hamamatsu (.ndpi, .vms, .vmu)", "Leica (.scn)"),
    *("MIRAX (.mrxs)", "Philips (.tiff)", "Sakura (.svslide)", "Trestle (.tif)"),
    *("Ventana (.bif, .tif)", "Zeiss (.czi)", "tiled TIFF (.tif)"),
)
"""What OpenSlide 4 opens, by openslide.org/formats; the library has no list to ask for."""

COARSER = 1.1
"""A level up to this factor coarser than wanted is enlarged: an Aperio 40x slide has levels at
0.2525 and 1.01 um/px, and for 0.972 the second decodes 16 times fewer pixels and loses nothing."""

CONTRADICTION = 1.6
"""mpp and objective power disagree from this factor on: 40x scanners record 0.16 to 0.26 um/px."""

SAME_GRID = 1e-6
"""A level this close to the wanted mpp, relatively, is read as it is, without resampling: TIFF
keeps its resolution as a fraction that OpenSlide reads in single precision, and over 100,000 px
this is a tenth of a pixel."""

ENDS_BYTES = 2**20
WHITE = 255


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the pyramid; pairs are (y, x)."""

    index: int
    shape_px: tuple[int, int]
    downsample: tuple[float, float]  # level-0 px per level px, the true one
    mpp: tuple[float, float]  # um/px
    reported: float  # the downsample by which OpenSlide divides locations
    block_px: tuple[int, int]  # the lattice of reads, see Slide.read_level


@dataclass(frozen=True, slots=True)
class Plane:
    """The scan plane: a slide resampled to exactly `mpp`, origin at level-0 (0, 0).

    Made by `Slide.plane`; fulfils scan's Reader. Pixel (i, j) covers the square
    [i*mpp, (i+1)*mpp) x [j*mpp, (j+1)*mpp) um of the slide.
    """

    slide: Slide = field(repr=False)
    mpp: float
    level: int
    ratio: tuple[float, float]  # level px per scan-plane px, (y, x)
    shape_px: tuple[int, int]
    bounds: Box  # slide.bounds_l0 on this plane, rounded outwards

    def read(self, box: Box) -> NDArray[np.uint8]:
        """RGB of `box`, scan-plane px, (H, W, 3) uint8; white outside the slide.

        Any box will do, also one partly or wholly outside. A pixel has the same value whichever
        box it is read in. Safe to call from several threads.

        Raises SlideError where the slide cannot be read.
        """
        inside = box.clip(Box(0, 0, *self.shape_px))
        if not inside.area:
            return np.full((*box.shape, 3), WHITE, np.uint8)
        rows = Taps.of(inside.y0, inside.y1, self.ratio[0])
        columns = Taps.of(inside.x0, inside.x1, self.ratio[1])
        support = Box(rows.start_src, columns.start_src, rows.stop_src, columns.stop_src)
        pixels = resample(self.slide.read_level(self.level, support), rows, columns)
        if inside == box:
            return pixels
        # Exactly white: resampling on would let the slide's edge ring into the first pixels.
        out = np.full((*box.shape, 3), WHITE, np.uint8)
        out[inside.shift(-box.y0, -box.x0).slices] = pixels
        return out


class Slide:
    """A slide that OpenSlide can read; use it as a context manager.

    path: the file. mpp: um/px of level 0, (y, x). objective_power: or None where not recorded.
    extent_l0: (height, width). bounds_l0: the scanned part, the whole slide where none is recorded.
    levels: finest first. warnings: what looks wrong, for the command to show. fingerprint: of the
    file, "quickhash-1:..." (OpenSlide's) or "sha256-ends:..." (size, first and last MiB).

    Each process opens its own OpenSlide handle at its first read, so a forked child may go on
    reading.
    """

    def __init__(self, path: Path, handle: OpenSlide, mpp: float | None = None) -> None:
        """Describe an open slide; `Slide.open` is the usual way in."""
        recorded = handle.properties
        height, width = self.extent_l0 = handle.dimensions[::-1]
        self.path = path
        self.mpp = _mpp(path, recorded, mpp)
        self.objective_power = _positive(recorded.get("openslide.objective-power"))
        self.bounds_l0 = _bounds(recorded, Box(0, 0, height, width))
        self.levels = _levels(handle, self.mpp)
        self.warnings = _warnings(self.mpp, self.objective_power)
        self.fingerprint = _fingerprint(path, recorded)
        # By process: a forked child that shared its parent's handle would share file positions.
        self._handles: dict[int, OpenSlide] | None = {os.getpid(): handle}

    @classmethod
    def open(cls, path: str | os.PathLike[str], mpp: float | None = None) -> Slide:
        """Open a slide; `mpp` (um/px of level 0, both axes) overrides what it records.

        Raises SlideError: no such file, not a slide, no usable mpp.
        """
        path = Path(path)
        if mpp is not None and _positive(mpp) is None:
            raise SlideError(f"--mpp {mpp:g}: expected micrometres per pixel above 0, e.g. 0.25")
        return cls(path, _open(path), mpp)

    def __enter__(self) -> Slide:
        """Return the slide itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Let go of the file once reads in other threads have ended; no more can be started."""
        # Dropping the reference, not handle.close(): that frees it under a read in progress.
        self._handles = None

    def plane(self, mpp: float) -> Plane:
        """The scan plane at `mpp` um/px, read from the coarsest level that holds enough detail.

        Raises SlideError where level 0 itself is more than 10 % coarser.
        """
        if _positive(mpp) is None:
            raise ValueError(f"mpp {mpp} must be above 0")
        fine = [level for level in self.levels if max(level.mpp) <= COARSER * mpp]
        if not fine:
            raise SlideError(
                f"{self.path}: the model needs {mpp:g} um/px (at most 10 % coarser), the slide's "
                f"finest level has {max(self.mpp):.4g}; use a slide scanned at a higher power, or "
                f"pass --mpp if {max(self.mpp):.4g} is wrong"
            )
        level = fine[-1]
        ratio_y, ratio_x = (_snap(mpp / own) for own in level.mpp)
        # Level-0 px per scan-plane px.
        step_y, step_x = ratio_y * level.downsample[0], ratio_x * level.downsample[1]
        height, width = self.extent_l0
        shape = _ceil(height / step_y), _ceil(width / step_x)
        box = self.bounds_l0
        bounds = Box(
            -_ceil(-box.y0 / step_y),
            -_ceil(-box.x0 / step_x),
            _ceil(box.y1 / step_y),
            _ceil(box.x1 / step_x),
        )
        return Plane(self, mpp, level.index, (ratio_y, ratio_x), shape, bounds)

    def read_level(self, index: int, box: Box) -> NDArray[np.uint8]:
        """RGB of `box` in pixels of level `index`, (H, W, 3) uint8; white outside the level.

        A pixel has the same value whichever box it is read in. Safe from several threads.

        Raises SlideError where the slide cannot be read.
        """
        # Always in the same blocks. OpenSlide divides a location by `reported`, the mean of the
        # ratios of widths and heights, 4.00012 on an ordinary Aperio slide. Where the quotient
        # is no integer cairo interpolates, so the level's own pixels would depend on where a read
        # began (openslide #256, #417, #641); beyond 4096 px OpenSlide itself begins anew. Fixed
        # blocks give every pixel one value and every damaged one the same error. On the slide's
        # own tiles they cost nothing: what is decoded twice comes from OpenSlide's cache.
        level = self.levels[index]
        out = np.full((*box.shape, 3), WHITE, np.uint8)
        inside = box.clip(Box(0, 0, *level.shape_px))
        if not inside.area:
            return out
        height, width = level.block_px
        for y in range(inside.y0 // height * height, inside.y1, height):
            for x in range(inside.x0 // width * width, inside.x1, width):
                block = Box(y, x, y + height, x + width).clip(Box(0, 0, *level.shape_px))
                part = block.clip(inside)
                rgba = self._read_block(level, block)[part.shift(-y, -x).slices]
                out[part.shift(-box.y0, -box.x0).slices] = _on_white(rgba)
        return out

    def _read_block(self, level: Level, block: Box) -> NDArray[np.uint8]:
        """RGBA of one block of a level, (h, w, 4) uint8."""
        y_l0, x_l0 = round(block.y0 * level.reported), round(block.x0 * level.reported)
        height, width = block.shape
        request = (x_l0, y_l0), level.index, (width, height)
        handle = self._handle()
        try:
            return np.asarray(handle.read_region(*request))
        except OpenSlideError:
            # A handle keeps its first error for good, and another thread's damaged region may
            # have been that: ask again on a handle of our own before blaming this block.
            self._drop(handle)
        handle = _open(self.path)
        try:
            pixels = np.asarray(handle.read_region(*request))
        except OpenSlideError as error:
            size = f"{width * level.downsample[1]:.0f} x {height * level.downsample[0]:.0f}"
            raise SlideError(
                f"{self.path}: cannot read level {level.index} at level-0 x={x_l0}, y={y_l0}, "
                f"{size} px: {_one_line(error)}; the file may be damaged, compare it with its "
                "source"
            ) from error
        self._keep(handle)
        return pixels

    def _handle(self) -> OpenSlide:
        """This process' handle, opened where there is none."""
        handles = self._handles
        if handles is None:
            raise ValueError(f"{self.path}: read after close()")
        handle = handles.get(os.getpid())
        return self._keep(_open(self.path)) if handle is None else handle

    def _keep(self, handle: OpenSlide) -> OpenSlide:
        """Share a good handle; where another thread was first, theirs stays and is returned."""
        handles = self._handles
        return handle if handles is None else handles.setdefault(os.getpid(), handle)

    def _drop(self, failed: OpenSlide) -> None:
        """Share this handle no more; it closes when the last thread that reads lets go."""
        handles = self._handles
        if handles is not None and handles.get(os.getpid()) is failed:
            handles.pop(os.getpid(), None)


def true_downsample(extent_l0: tuple[int, int], shape_px: tuple[int, int]) -> tuple[float, float]:
    """Level-0 px per level px, (y, x), from the dimensions.

    Scanners divide by an integer and drop or complete the last pixel; where one integer explains
    both axes it is that, else each axis' own quotient.

    >>> true_downsample((32914, 46000), (8228, 11500))  # CMU-1.svs, OpenSlide says 4.00012
    (4.0, 4.0)
    >>> true_downsample((1000, 1000), (391, 500))
    (2.557544757033248, 2.0)
    """
    sizes = tuple(zip(extent_l0, shape_px, strict=True))
    quotients = tuple(whole / part for whole, part in sizes)
    mean = sum(quotients) / 2
    # Far up the pyramid several integers fit; scanners' are mostly powers of two.
    for n in (2 ** round(math.log2(mean)), round(mean)):
        if all(abs(whole - n * part) < n for whole, part in sizes):
            return float(n), float(n)
    return quotients[0], quotients[1]


def _levels(handle: OpenSlide, mpp: tuple[float, float]) -> tuple[Level, ...]:
    levels = []
    for index, (width, height) in enumerate(handle.level_dimensions):
        scale = true_downsample(handle.dimensions[::-1], (height, width))
        block = tuple(
            _block(handle.properties.get(f"openslide.level[{index}].tile-{side}"))
            for side in ("height", "width")
        )
        levels.append(
            Level(
                index=index,
                shape_px=(height, width),
                downsample=scale,
                mpp=(mpp[0] * scale[0], mpp[1] * scale[1]),
                reported=handle.level_downsamples[index],
                block_px=(block[0], block[1]),
            )
        )
    return tuple(levels)


def _block(tile: str | None) -> int:
    """The side of a block: the tile's, unless that is unknown, whole strips or mere crumbs."""
    side = int(tile or 0)
    return side if 64 <= side <= 1024 else 256


def _mpp(path: Path, recorded: Mapping[str, str], given: float | None) -> tuple[float, float]:
    if given is not None:
        return given, given
    y, x = (_positive(recorded.get(f"openslide.mpp-{axis}")) for axis in "yx")
    if y is None or x is None:
        raise SlideError(f"{path}: the slide records no resolution; pass --mpp, e.g. --mpp 0.25")
    return y, x


def _warnings(mpp: tuple[float, float], power: float | None) -> tuple[str, ...]:
    if power is None:
        return ()
    own, expected = math.sqrt(mpp[0] * mpp[1]), 10 / power
    if max(own / expected, expected / own) <= CONTRADICTION:
        return ()
    return (
        f"{own:.4g} um/px contradicts the objective power of {power:g}x, where about "
        f"{expected:.4g} um/px is expected; if the resolution is wrong, pass --mpp",
    )


def _bounds(recorded: Mapping[str, str], whole: Box) -> Box:
    names = ("y", "x", "height", "width")
    values = [recorded.get(f"openslide.bounds-{name}") for name in names]
    try:
        y, x, height, width = (int(value or "") for value in values)
    except ValueError:
        return whole
    box = Box(y, x, y + height, x + width).clip(whole)
    return box if box.area else whole


def _fingerprint(path: Path, recorded: Mapping[str, str]) -> str:
    quickhash = recorded.get("openslide.quickhash-1")
    if quickhash:
        return f"quickhash-1:{quickhash}"
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(ENDS_BYTES))
        file.seek(max(0, size - ENDS_BYTES))
        digest.update(file.read())
    return f"sha256-ends:{digest.hexdigest()}"


def _open(path: Path) -> OpenSlide:
    try:
        # OpenSlide does not tell a file that it may not read from one that is no slide.
        path.open("rb").close()
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
        raise SlideError(
            f"{path}: not a slide that OpenSlide can open: {_one_line(error)}{hint}"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _positive(value: str | float | None) -> float | None:
    """A finite number above 0, else None."""
    try:
        number = float(value if value is not None else "nan")
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def _snap(ratio: float) -> float:
    return 1.0 if math.isclose(ratio, 1.0, rel_tol=SAME_GRID) else ratio


def _ceil(pixels: float) -> int:
    """Round up, but not for the noise of floats: 100.0000001 px are 100."""
    return math.ceil(pixels - 1e-6)


def _on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay straight-alpha RGBA on white, (h, w, 4) to (h, w, 3) uint8."""
    alpha = rgba[..., 3:]
    if alpha.min() == 255:
        return rgba[..., :3]
    opaque = alpha.astype(np.uint32)
    mixed = (rgba[..., :3] * opaque + WHITE * (255 - opaque) + 127) // 255
    return mixed.astype(np.uint8)
