"""Processes that work for this one: what each does first, and how many there may be."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing import connection


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
