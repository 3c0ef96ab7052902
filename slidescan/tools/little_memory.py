"""What Python does badly where there is little memory, mended for a whole process.

For programs, not for the library: both functions change what is not ours.
"""

from __future__ import annotations

import logging
import mmap
import threading
from functools import wraps
from typing import Any

from slidescan.errors import lacks_memory

NEEDED_BYTES = 16 * 2**20
"""For a thread: a stack, 8 MB where nothing else was set, and what Python and the C library make at
its start."""


def ask_before_threads() -> None:
    """Let `Thread.start` raise MemoryError instead of waiting for ever.

    It waits for the new thread to say that it runs, which one that finds no memory never does
    (github.com/python/cpython/issues/140746). This covers the threads of zarr, filelock and pools
    as well, whose starts are not ours. What other threads take at the same moment remains a gap.
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


def log_no_lack_of_memory() -> None:
    """Drop what zarr's event loop logs of too little memory: the caller gets the error, too.

    And it could not be told: writing a traceback takes memory.
    """
    logging.getLogger("asyncio").addFilter(_of_something_else)


def _of_something_else(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return error is None or not lacks_memory(error)
