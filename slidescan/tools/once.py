"""A value that is made when first asked for, by one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Once(Generic[Value]):
    """Calls `make` at the first call, while other threads wait; later calls return its result.

    >>> once = Once(lambda: [1])
    >>> once() is once()
    True
    """

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._values: list[Value] = []

    def __call__(self) -> Value:
        """Return the value. An error of `make` is raised and the next call tries again."""
        with self._lock:
            if not self._values:
                self._values.append(self._make())
            return self._values[0]
