"""A bounded cache whose entries are made once, however many threads ask for them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Cache(Generic[Value]):
    """Keeps the entries used last, up to `limit` in the sum of their sizes.

    >>> squares = Cache[int](limit=2)
    >>> [squares.get(n, lambda n=n: n * n) for n in (1, 2, 3)], len(squares)
    ([1, 4, 9], 2)
    """

    def __init__(self, limit: int, size: Callable[[Value], int] = lambda value: 1) -> None:
        self.limit = limit
        self._size = size
        self._used = 0
        self._kept: OrderedDict[Hashable, Value] = OrderedDict()
        self._making: dict[Hashable, Future[Value]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The entry of a key, made now where there is none; what `make` raises is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            waiting = self._making.get(key)
            if waiting is None:
                mine = self._making[key] = Future()
        if waiting is not None:
            return waiting.result()
        try:
            value = make()
        except BaseException as error:
            mine.set_exception(error)
            with self._lock:
                del self._making[key]
            raise
        self._keep(key, value)
        mine.set_result(value)
        return value

    def _keep(self, key: Hashable, value: Value) -> None:
        with self._lock:
            del self._making[key]
            self._kept[key] = value
            self._used += self._size(value)
            # The newest entry stays, however large: the caller has it anyway.
            while self._used > self.limit and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._used -= self._size(oldest)
