"""Processes that work for this one: how they start, and what each does first."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection


@contextmanager
def out_of_earshot() -> Iterator[None]:
    """Processes that are started inside do not hear Ctrl-C, and print no traceback, even while
    they still import what `obey_parent` is in; this one hears it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent() -> None:
    """Ctrl-C is the parent's to act on, and whoever kills it means its workers as well."""
    # It reaches all processes of a terminal; the parent ends its workers by itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Torch's own watch leaves a worker that waits for room in the queue of a dead parent.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
