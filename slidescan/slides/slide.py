"""Whole slides, read at exactly the resolution asked for.

Frames: `_l0` is the slide's level 0; *level* pixels are those of one pyramid level; the *scan
plane* is the slide resampled to the wanted mpp. All share the origin at level-0 (0, 0). Everything
is (y, x).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import SlideError
from slidescan.geometry import Box
from slidescan.slides import properties
from slidescan.slides.damage import Damage, place
from slidescan.slides.doubts import check_photometric, find_doubts
from slidescan.slides.fingerprint import find_fingerprint
from slidescan.slides.focal_planes import find_planes
from slidescan.slides.handle import Handle, Pixels, ReadError, open_handle
from slidescan.slides.pixels import Gathered, copy_on_white
from slidescan.slides.plane import Plane, read_resampled
from slidescan.slides.properties import Level, positive
from slidescan.slides.samples import check_samples, plain_directories

COARSER = 1.1
"""A level up to this factor coarser than wanted is enlarged: an Aperio 40x slide has levels at
0.2525 and 1.01 um/px, and for 0.972 the second decodes 16 times fewer pixels and loses nothing."""

SAME_GRID = 1e-6
"""A level this close to the wanted mpp, relatively, is read as it is, without resampling: TIFF
keeps its resolution as a fraction that OpenSlide reads in single precision, and over 100,000 px
this is a tenth of a pixel."""

OPAQUE = 250
"""A pixel of less alpha (of 255) is missing. Where OpenSlide interpolates, pixels at the seams of
tiles have down to 253."""

MISSING = "its tile is missing"

FINER_PX = 2048
"""Side of the largest read of a finer level for a coarser one, which bounds the memory."""


class Slide:
    """A slide that OpenSlide can read; use it as a context manager.

    path: the file. mpp: um/px of level 0, (y, x). objective_power: or None where not recorded.
    extent_l0: (height, width). bounds_l0: the scanned part, the whole slide where none is recorded.
    levels: finest first. damage: blocks that were read and are damaged. warnings: what looks wrong,
    for the command to show. fingerprint: of the file, see `find_fingerprint`.
    """

    def __init__(
        self, path: Path, handle: Handle, mpp: float | None = None, *, skip_damaged: bool = False
    ) -> None:
        """Describe an open slide; `Slide.open` is the usual way to make one."""
        recorded = handle.properties
        height, width = self.extent_l0 = handle.level_dimensions[0][::-1]
        self.path = path
        directories = plain_directories(path, recorded.get("openslide.vendor"))
        check_samples(path, directories)
        check_photometric(path, directories)
        self.mpp = properties.find_mpp(path, recorded, mpp)
        self.objective_power = positive(recorded.get("openslide.objective-power"))
        self.bounds_l0 = properties.find_bounds(recorded, Box(0, 0, height, width))
        self.levels = properties.find_levels(
            path, handle.level_dimensions, handle.level_downsamples, recorded, self.mpp
        )
        self.warnings = properties.find_warnings(
            recorded, self.mpp, self.objective_power, given=mpp is not None
        )
        self.warnings += tuple(
            find_doubts(directories, recorded, self.levels, handle.profile_shift())
        )
        if planes := find_planes(path, recorded):
            self.warnings += (planes,)
        self.fingerprint = find_fingerprint(path, recorded)
        self._gap_bounds = [
            properties.find_gap_bounds(recorded, self.bounds_l0, level) for level in self.levels
        ]
        self.damage = Damage(path, directories, skip=skip_damaged)
        self._handle = handle

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], mpp: float | None = None, *, skip_damaged: bool = False
    ) -> Slide:
        """Open a slide; `mpp` (um/px of level 0, both axes) overrides what it records.

        With `skip_damaged` blocks of level 0 that cannot be read, or whose data look damaged, are
        gaps. Those of other levels are computed from the next finer level.

        Raises SlideError: no such file, not a slide, not 8-bit RGB, no usable mpp.
        """
        path = Path(path)
        handle = open_handle(path)
        try:
            return cls(path, handle, mpp, skip_damaged=skip_damaged)
        except BaseException:
            handle.close()
            raise

    def __enter__(self) -> Slide:
        """Return the slide itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the file once reads in other threads have ended; no more can be started."""
        self._handle.close()

    def plane(self, mpp: float) -> Plane:
        """The scan plane at `mpp` um/px, read from the coarsest level that holds enough detail.

        Raises SlideError where level 0 itself is more than 10 % coarser, or the slide is larger
        than glass can be.
        """
        if positive(mpp) is None:
            raise ValueError(f"mpp {mpp} must be above 0")
        fine = [level for level in self.levels if max(level.mpp) <= COARSER * mpp]
        if not fine:
            raise SlideError(
                f"{self.path}: the model needs {mpp:g} um/px (at most 10 % coarser), the slide's "
                f"finest level has {max(self.mpp):.4g}; use a slide scanned at a higher power, or "
                f"pass --mpp if {max(self.mpp):.4g} is wrong"
            )
        properties.check_size(self.path, self.extent_l0, self.mpp)
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
        """RGB of `box` in pixels of level `index`, (H, W, 3) uint8; white outside and in gaps.

        A pixel has the same value whichever box it is read in. Safe to call from several threads.

        Raises SlideError where the slide cannot be read.
        """
        return self.read_level_with_gaps(index, box)[0]

    def read_level_with_gaps(
        self, index: int, box: Box
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """`read_level`, and which pixels the file does not hold; None where it holds them all.

        OpenSlide gives the pixels of a missing tile as transparent. Transparent pixels outside
        `bounds_l0`, and in formats that leave out glass, are no gaps. With `skip_damaged` the
        pixels of damaged blocks are gaps as well.

        Raises SlideError where the slide cannot be read.
        """
        # Always in the same blocks. OpenSlide divides a location by `reported`, the mean of the
        # ratios of widths and heights, 4.00012 on an ordinary Aperio slide. Where the quotient
        # is no integer cairo interpolates, so the level's own pixels would depend on where a read
        # began (openslide #256, #417, #641); beyond 4096 px OpenSlide itself begins anew. Fixed
        # blocks give every pixel one value and every damaged one the same error. On the slide's
        # own tiles they cost nothing: what is decoded twice comes from OpenSlide's cache.
        level = self.levels[index]
        found = Gathered(box)
        inside = box.clip(Box(0, 0, *level.shape_px))
        if not inside.area:
            return found.rgb, None
        blocks = list(_blocks(level, inside))
        lost: list[tuple[Box, str]] = []
        for block, pixels in zip(blocks, self._read_blocks(level, blocks), strict=True):
            if isinstance(pixels, str):
                lost.append((block, pixels))
                continue
            self.damage.look_at(level, block, pixels)
            part = block.clip(inside)
            pixels = pixels[part.shift(-block.y0, -block.x0).slices]
            if copy_on_white(pixels, found.rgb[found.at(part)]):
                continue
            held = self._gap_bounds[index].clip(part)
            missing = pixels[held.shift(-part.y0, -part.x0).slices][..., 3] < OPAQUE
            if missing.any():
                found.mark(held, missing)
                if index:
                    lost.append((block, MISSING))
        # Now that no memory is held, which reading another level needs as well.
        for block, why in lost:
            self._replace(level, block, why, block.clip(inside), found)
        return found.rgb, found.gaps

    def _read_blocks(self, level: Level, blocks: Sequence[Box]) -> Iterator[Pixels | str]:
        """Read blocks of a level, in order, or say why one cannot be used."""
        regions = [
            (round(block.x0 * level.reported), round(block.y0 * level.reported), *block.shape[::-1])
            for block in blocks
        ]
        with closing(self._handle.read(level.index, regions)) as read:
            for block, pixels in zip(blocks, read, strict=True):
                if isinstance(pixels, ReadError):
                    yield str(pixels)
                    continue
                why = self.damage.reason(level, block, pixels)
                if why and not level.index and not self.damage.skip:
                    self.damage.note(level, block, why)
                    why = None
                yield why or pixels

    def _replace(self, level: Level, block: Box, why: str, part: Box, found: Gathered) -> None:
        """Fill a part of a block that cannot be used from the next finer level.

        Of level 0 it is a gap or an error. A missing tile stays a gap unless that level has more.
        """
        if level.index:
            rgb, gaps = self._from_finer(level, part)
            if why == MISSING and gaps is not None and gaps.sum() >= found.gap_count(part):
                return
            found.put(part, rgb, gaps)
            self.damage.note(level, block, why, instead=level.index - 1)
        elif self.damage.skip:
            found.mark(part, np.ones(part.shape, np.bool_))
            self.damage.note(level, block, why, skipped=True)
        else:
            raise SlideError(
                f"{self.path}: cannot read level {level.index} at {place(level, block)}: {why}; "
                "the file may be damaged, compare it with its source"
            )

    def _from_finer(
        self, level: Level, box: Box
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """The pixels of a level, computed from the next finer one, and their gaps."""
        finer = self.levels[level.index - 1]
        down_y, down_x = (
            one / other for one, other in zip(level.downsample, finer.downsample, strict=True)
        )
        found = Gathered(box)
        for part in box.split(max(1, int(FINER_PX / max(down_y, down_x)))):
            found.put(part, *read_resampled(self, finer.index, part, (down_y, down_x)))
        return found.rgb, found.gaps


def _blocks(level: Level, inside: Box) -> Iterator[Box]:
    """The blocks of a level that hold pixels of a box."""
    height, width = level.block_px
    for y in range(inside.y0 // height * height, inside.y1, height):
        for x in range(inside.x0 // width * width, inside.x1, width):
            yield Box(y, x, y + height, x + width).clip(Box(0, 0, *level.shape_px))


def _snap(ratio: float) -> float:
    return 1.0 if math.isclose(ratio, 1.0, rel_tol=SAME_GRID) else ratio


def _ceil(pixels: float) -> int:
    """Round up, but not for the noise of floats: 100.0000001 px are 100."""
    return math.ceil(pixels - 1e-6)
