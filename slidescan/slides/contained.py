"""A slide that OpenSlide reads in a process of its own.

A file that makes OpenSlide crash costs that process: what crashed is an error of its region, and a
new process reads the others.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import SlideError
from slidescan.tools.child_pool import ChildPool
from slidescan.tools.child_process import CallError, Child, ChildEndedError
from slidescan.tools.hardware import cores

ROOM_BYTES = 4 * 2**20
"""Of the memory for the pixels of one call: sixteen blocks of 256 px, or one of 1024 px."""

MOST_IDLE = 4
"""Processes that are kept for the next slides; starting one takes a tenth of a second."""

PROCESSES = ChildPool("slidescan.slides.openslide_process", cores() + 2, ROOM_BYTES, MOST_IDLE)

MOST_UNEXPLAINED = 3
"""Ends of the process in a row that no region explains, before the slide is given up."""

Region = tuple[int, int, int, int]
"""(x, y) of level 0, width and height in pixels of the level that is read."""

Pixels = NDArray[np.uint8]
"""Of a region, (h, w, 4): blue, green and red, multiplied by alpha, and alpha."""


class ReadError(Exception):
    """A region could not be read; the message is OpenSlide's own, or says how it crashed."""


class ContainedSlide:
    """An open slide; see `handle.Handle`."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises CallError, ChildEndedError; OSError where no process can be started."""
        self.path = path
        self._changing, self._alone = threading.RLock(), threading.Lock()
        self._reads = self._unexplained = 0
        self._closed = False
        self._child, described = self._opened()
        self.properties: dict[str, str] = described["properties"]
        self.level_dimensions = [(int(w), int(h)) for w, h in described["level_dimensions"]]
        self.level_downsamples: list[float] = described["level_downsamples"]

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __del__(self) -> None:
        """Another slide may use the process of one that was never closed."""
        child = getattr(self, "_child", None)  # absent where opening failed
        if child is not None and not self._closed:
            PROCESSES.put(child)

    def profile_shift(self) -> float | None:
        """`colour_profiles.profile_shift` of its ICC profile; None where reading it crashes."""
        if "openslide.icc-size" not in self.properties:
            return None
        try:
            with self._reading() as child:
                shift: float | None = child.call("profile_shift")
        except ChildEndedError:
            return None
        return shift

    def read(
        self, level: int, regions: Sequence[Region]
    ) -> Generator[Pixels | ReadError, None, None]:
        """Read regions of a level, in order; each is valid until the next is asked for.

        Raises SlideError where the process ends again and again.
        """
        for batch in _batches(regions):
            with self._reading() as child, child.room() as (start, room):
                try:
                    errors = child.call("read", level=level, regions=batch, start=start)
                except ChildEndedError as error:
                    self._count(child, error)
                else:
                    yield from _found(room, batch, errors)
                    continue
            yield from self._read_alone(level, batch)

    def close(self) -> None:
        """Close the file once reads in other threads have ended; no more can be started."""
        with self._changing:
            if not self._closed:
                self._closed = True
                self._let_go()

    def _opened(self) -> tuple[Child, dict[str, Any]]:
        """A process that has the slide open, and what it says of it."""
        child = PROCESSES.take()
        try:
            return child, child.call("open", path=str(self.path.absolute()))
        except BaseException:
            PROCESSES.keep(child)
            raise

    @contextmanager
    def _reading(self) -> Iterator[Child]:
        """Give the process, a new one where it has ended, and keep it open."""
        with self._changing:
            if self._closed:
                raise ValueError(f"{self.path}: read after close()")
            if not self._child.usable:  # it crashed, or this process was forked
                ended = self._child
                self._child, _ = self._again()
                ended.close()
            child = self._child
            self._reads += 1
        try:
            yield child
        finally:
            with self._changing:
                self._reads -= 1
                self._let_go()

    def _let_go(self) -> None:
        if self._closed and not self._reads:
            PROCESSES.keep(self._child)

    def _again(self) -> tuple[Child, dict[str, Any]]:
        try:
            return self._opened()
        except (ChildEndedError, CallError, OSError) as error:
            raise SlideError(f"{self.path}: cannot be opened any more: {error}") from error

    def _count(self, child: Child, error: ChildEndedError) -> None:
        """Give up where the process ends again and again, and no region is to blame."""
        with self._changing:
            if child is self._child and not child.counted:
                child.counted = True
                self._unexplained += 1
            if self._unexplained > MOST_UNEXPLAINED:
                raise SlideError(
                    f"{self.path}: the process that reads it ended {self._unexplained} times "
                    f"({error}), and no part of the slide explains it"
                )

    def _read_alone(self, level: int, regions: Sequence[Region]) -> Iterator[Pixels | ReadError]:
        """Read one region after the other in a process that reads nothing else meanwhile."""
        with self._alone:
            child: Child | None = None
            try:
                for region in regions:
                    if child is None:
                        child, _ = self._again()
                    with child.room() as (start, room):
                        try:
                            errors = child.call("read", level=level, regions=[region], start=start)
                        except ChildEndedError as error:
                            child.close()
                            child, self._unexplained = None, 0
                            yield ReadError(f"OpenSlide crashed there ({error})")
                        else:
                            yield from _found(room, [region], errors)
            finally:
                if child is not None:
                    PROCESSES.keep(child)


def _batches(regions: Sequence[Region]) -> Iterator[list[Region]]:
    """Split regions into those whose pixels fit a room together."""
    batch: list[Region] = []
    left = ROOM_BYTES
    for region in regions:
        size = region[2] * region[3] * 4
        assert size <= ROOM_BYTES, f"a region of {region[2]} x {region[3]} px has no room"
        if size > left:
            yield batch
            batch, left = [], ROOM_BYTES
        batch.append(region)
        left -= size
    if batch:
        yield batch


def _found(
    room: memoryview, regions: Sequence[Region], errors: Sequence[str | None]
) -> Iterator[Pixels | ReadError]:
    """The pixels of the regions, one behind the other in a room."""
    start = 0
    for (_, _, width, height), error in zip(regions, errors, strict=True):
        size = width * height * 4
        if error is None:
            part = np.frombuffer(room, np.uint8, size, start)
            yield part.reshape(height, width, 4)
        else:
            yield ReadError(error)
        start += size


def library_version() -> str:
    """OpenSlide's version. Raises SlideError where its process cannot be started."""
    try:
        child = PROCESSES.take()
        try:
            return str(child.call("version"))
        finally:
            PROCESSES.keep(child)
    except (ChildEndedError, OSError) as error:
        raise SlideError(f"OpenSlide cannot be started: {error}") from error
