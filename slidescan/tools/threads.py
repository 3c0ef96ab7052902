"""Threads begin only where there is memory for one.

CPython's `Thread.start` waits for the new thread to say that it runs. Where that finds no memory to
say so, it waits for ever (github.com/python/cpython/issues/140746).
"""

from __future__ import annotations

import mmap
import threading
from functools import wraps
from typing import Any

NEEDED_BYTES = 16 * 2**20
"""A stack, 8 MB where nothing else was set, and what Python and the C library make at the start."""


def ask_for_memory_first() -> None:
    """Let `Thread.start` raise MemoryError in this process instead of waiting for ever.

    For programs, not for the library: it changes all threads, also those of zarr, filelock and
    thread pools, whose starts are not ours. What other threads take at the same moment remains a
    gap.
    """
    start = threading.Thread.start
    if hasattr(start, "__wrapped__"):
        return

    @wraps(start)
    def ask_and_start(self: threading.Thread, *arguments: Any, **named: Any) -> None:
        _ask()
        start(self, *arguments, **named)

    threading.Thread.start = ask_and_start  # type: ignore[method-assign]


def _ask() -> None:
    """Reserve the memory and give it back, which takes microseconds."""
    try:
        mmap.mmap(-1, NEEDED_BYTES).close()
    except OSError:
        raise MemoryError("no memory for a thread") from None
