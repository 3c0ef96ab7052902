"""Worker processes: how they start, and what each does first."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker

from slidescan.tools.little_memory import ask_before_threads, log_no_lack_of_memory


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """Start processes inside: they inherit a mask that blocks SIGINT for their whole life.

    Ctrl-C reaches every process of a terminal. A worker that still imports modules has not called
    `obey_parent` yet and would print a traceback. This process handles Ctrl-C afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # multiprocessing starts its resource tracker before the first worker, and unblocks SIGINT
    # afterwards (bpo-33613). Started now, it does not undo the mask below.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent() -> None:
    """Leave Ctrl-C to the parent, and end when the parent ends, even if it is killed."""
    ask_before_threads()
    log_no_lack_of_memory()
    # The parent ends its workers by itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The executor's own watch leaves a worker that waits for room in the queue of a dead parent.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
