"""Wait for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 60.0
"""Only a test that fails waits so long."""


def wait_until(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> bool:
    """Return whether the condition came true in time."""
    end = time.monotonic() + patience_s
    while not (true := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return bool(true)
