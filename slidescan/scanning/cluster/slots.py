"""A bound on the tasks that are alive, shared fairly by the slides in progress."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

LOOK_S = 0.5
"""How often a thread that waits looks whether it should still."""


class Slots:
    """Hands out at most `limit` slots, to those who ask first. Safe from threads.

    A slide asks for one task after the other, so slides take turns: a large one cannot keep a small
    one waiting for more than a round.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()

    def take(self, look: Callable[[], object]) -> None:
        """Wait for a slot. `look` is called meanwhile, and what it raises ends the wait."""
        ticket = threading.Event()
        with self._lock:
            self._waiting.append(ticket)
            self._hand_out()
        try:
            while not ticket.wait(LOOK_S):
                look()
        except BaseException:
            with self._lock:
                if ticket.is_set():
                    self.used -= 1
                    self._hand_out()
                else:
                    self._waiting.remove(ticket)
            raise

    def give(self) -> None:
        """Give a slot back."""
        with self._lock:
            self.used -= 1
            self._hand_out()

    def resize(self, limit: int) -> None:
        """Change the number of slots; those in use stay."""
        with self._lock:
            self.limit = limit
            self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and self.used < self.limit:
            self.used += 1
            self._waiting.popleft().set()
