"""Slides in progress: several at once, each in a thread, begun when the pace says so."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TypeAlias, TypeVar

from slidescan.protocols import Bar
from slidescan.scanning.pace import Pace

Item = TypeVar("Item")
Result = TypeVar("Result")
_Found: TypeAlias = "SimpleQueue[tuple[Result] | BaseException | None]"
"""Results, each in a tuple; errors that end the batch; None at the end."""


def in_progress(
    items: Iterator[Item], pace: Pace, work: Callable[[Item, Progress], Result]
) -> Generator[Result, None, None]:
    """Work at items in threads; yields the results in this thread, in the order of their ends.

    Whatever `work` or `items` raise is raised here. However this ends (close it), no further item
    is begun, and those in progress are stopped.
    """
    found: _Found[Result] = SimpleQueue()

    def attempt(item: Item) -> None:
        with _ending_in(found), Progress(pace) as progress:
            found.put((work(item, progress),))

    def begin() -> None:
        try:
            with _ending_in(found), ThreadPoolExecutor(pace.most, "slide") as slides:
                while pace.begin() and (item := next(items, None)) is not None:
                    slides.submit(attempt, item)
        finally:
            found.put(None)

    with ThreadPoolExecutor(1, "batch") as starter:
        starter.submit(begin)
        try:
            yield from _until_ended(found)
        finally:
            pace.stop()


class Stopped(BaseException):
    """The batch was stopped; raised in the threads of its slides."""


class Progress:
    """The reporter of a slide in progress: tells the pace how many of its pixels are scanned."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._left: int | None = None

    def __enter__(self) -> Progress:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Tell the pace that the slide has ended."""
        self.pace.end(self._left)

    @contextmanager
    def bar(self, what: str, total: int, unit: str) -> Iterator[Bar]:
        if what == "scanning":
            self._left = total
            self.pace.prepared(total)
        yield self

    def update(self, done: int) -> None:
        if self.pace.stopped:
            raise Stopped
        if self._left is not None:
            self._left -= done
            self.pace.scanned(done)

    def say(self, line: str) -> None: ...

    def warn(self, line: str) -> None: ...  # the session keeps them


@contextmanager
def _ending_in(found: _Found[Result]) -> Iterator[None]:
    """Put an error that ends the batch into the queue."""
    try:
        yield
    except Stopped:
        pass
    except BaseException as error:
        found.put(error)


def _until_ended(found: _Found[Result]) -> Iterator[Result]:
    """Yield results until None."""
    while True:
        try:
            # With a timeout: without, Ctrl-C does not interrupt the wait on Windows.
            each = found.get(timeout=1)
        except Empty:
            continue
        if each is None:
            return
        if isinstance(each, BaseException):
            raise each
        yield each[0]
