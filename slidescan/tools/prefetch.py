"""Preparing the next items in other threads while the current one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def prefetch(
    pool: Executor, prepare: Callable[[Job], Result], jobs: Iterable[Job], depth: int
) -> Generator[tuple[Job, Result], None, None]:
    """Yield each job with the result of `prepare`, in order; up to `depth` later ones are prepared.

    Closing the generator early cancels the jobs that have not begun.

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as pool:
    ...     list(prefetch(pool, abs, [-1, 2, -3], depth=1))
    [(-1, 1), (2, 2), (-3, 3)]
    """
    waiting: deque[tuple[Job, Future[Result]]] = deque()
    try:
        for job in jobs:
            waiting.append((job, pool.submit(prepare, job)))
            if len(waiting) > depth:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    finally:
        for _, future in waiting:
            future.cancel()
