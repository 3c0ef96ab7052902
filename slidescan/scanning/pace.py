"""When the next slide of a batch is begun: soon enough that the processors never wait for it.

A slide needs the network only for a part of its time. Before, it is opened and its tissue found;
after, its levels are written. So several slides are in progress at once, each in a thread. Their
tiles still go to the network one slide after the other, so that memory does not grow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

IN_PROGRESS = 4
"""Slides at once: one that is opened, two that are scanned (the last tiles of one, the first of the
next), one whose levels are written."""

SOON_S = 20.0
"""The next slide is begun when the work left takes this long: opening a large one takes seconds.
Earlier would keep it from other processes."""

PREPARING = 2
"""Slides that are opened at once."""

T = TypeVar("T")


class Pace:
    """Counts the work in progress and tells when to begin a slide. Safe from threads."""

    most = IN_PROGRESS

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turn = threading.Lock()
        self._slides = self._preparing = 0
        self._left_px = self._done_px = 0
        self._since: float | None = None
        self.stopped = False

    def begin(self) -> bool:
        """Wait until another slide should be begun; false when stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self.stopped or self._soon())
            if self.stopped:
                return False
            self._slides += 1
            self._preparing += 1
            return True

    def _soon(self) -> bool:
        if not self._slides:
            return True
        if self._preparing >= PREPARING or self._slides >= IN_PROGRESS:
            return False
        if self._since is None or not self._done_px:
            return False  # how fast the network is shows on the first slide
        speed = self._done_px / max(time.monotonic() - self._since, 1e-3)
        return self._left_px / speed < SOON_S

    def prepared(self, pixels: int) -> None:
        """Tell that a slide's tissue is found, and that it has `pixels` to scan."""
        with self._changed:
            self._preparing -= 1
            self._left_px += pixels
            self._since = self._since or time.monotonic()
            self._changed.notify_all()

    def scanned(self, pixels: int) -> None:
        """Tell that pixels of a slide are scanned."""
        with self._changed:
            self._left_px -= pixels
            self._done_px += pixels
            self._changed.notify_all()

    def end(self, left_px: int | None) -> None:
        """Tell that a slide is finished, or has failed and what is left; None if not `prepared`."""
        with self._changed:
            self._slides -= 1
            self._preparing -= left_px is None
            self._left_px -= left_px or 0
            self._changed.notify_all()

    def stop(self) -> None:
        """Let no further slide begin."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def in_turn(self, work: Iterable[T]) -> Iterator[T]:
        """Pass a slide's work on once that of the slide before has been taken."""
        with self._turn:
            yield from work
