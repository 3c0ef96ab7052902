"""Child processes that have nothing to do at the moment, kept for the next task."""

from __future__ import annotations

import atexit
from contextlib import suppress
from queue import Empty, SimpleQueue

from slidescan.tools.child_process import Child, ChildEndedError


class ChildPool:
    """Starts processes that run `module` and keeps at most `most` that are idle.

    They end with this process. Safe to call from several threads.
    """

    def __init__(self, module: str, rooms: int, room_bytes: int, most: int) -> None:
        self.module, self.room_bytes = module, room_bytes
        self._rooms, self._most = rooms, most
        self._idle: SimpleQueue[Child] = SimpleQueue()
        atexit.register(self.close)

    def take(self) -> Child:
        """An idle process, or a new one. Raises OSError where none can be started."""
        while True:
            try:
                child = self._idle.get_nowait()
            except Empty:
                return Child(self.module, self._rooms, self.room_bytes)
            if child.usable and child.module == self.module:
                return child
            child.close()

    def keep(self, child: Child) -> None:
        """Let a process close its file, by its method `close`, and keep it for the next one."""
        if child.usable and self._idle.qsize() < self._most:
            with suppress(ChildEndedError):
                child.call("close")  # waits: the caller may replace the file next
            self._idle.put(child)
        else:
            child.close()

    def put(self, child: Child) -> None:
        """`keep`, but do nothing that a destructor may not do."""
        self._idle.put(child)

    def close(self) -> None:
        """End the idle processes."""
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return
