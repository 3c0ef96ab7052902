"""The interfaces between the parts of a scan: reader, engine, sink, report.

The scan imports no slide format, no framework and no store. Each part fulfils one of these
protocols, and the caller joins them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from slidescan.geometry import Box

BATCH = 64
"""Patches that an engine gets at once where they are scored one by one. From 16 to 256 the speed
is the same; maps and tables record the number."""


WHITE = 255
"""Value of the pixels outside of a slide, in each channel."""


class Reader(Protocol):
    """A source of scan-plane pixels."""

    def read(self, box: Box) -> NDArray[np.uint8]:
        """RGB of any box of the plane, (H, W, 3), white outside. May be called from any thread."""


@runtime_checkable
class Gapped(Reader, Protocol):
    """A scan plane some of whose pixels may be missing."""

    def read_with_gaps(self, box: Box) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """`read`, and which pixels are missing, (H, W) bool; None where none is."""


def read_with_gaps(reader: Reader, box: Box) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """Read a box and its gaps from any reader."""
    return reader.read_with_gaps(box) if isinstance(reader, Gapped) else (reader.read(box), None)


class Engine(Protocol):
    """A network that is ready to run."""

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """P(tumour) of RGB (N, H, W, 3): (N, h, w), one value per stride. One call at a time."""


@runtime_checkable
class Selective(Engine, Protocol):
    """An engine that can skip cells, because it computes each one by itself."""

    def select(self, pixels: NDArray[np.uint8], wanted: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The values of a call where `wanted` (N, h, w) is true, and any values elsewhere."""


@runtime_checkable
class Parallel(Engine, Protocol):
    """An engine that accepts several calls at once, each from its own thread."""

    at_once: int


def calls_at_once(engine: Engine) -> int:
    """How many calls an engine accepts at once."""
    return engine.at_once if isinstance(engine, Parallel) else 1


class Sink(Protocol):
    """A store of finished blocks."""

    def write(self, block: Box, values: NDArray[np.float32], gaps: NDArray[np.bool_]) -> None:
        """Store the cells of `block`, NaN where not scanned. Called from one thread, in order.

        `gaps` marks the selected cells that were not scanned because pixels of their field of
        view are missing.
        """


class Bar(Protocol):
    """A progress bar."""

    def update(self, done: int) -> object:
        """Advance by `done`."""


OpenBar: TypeAlias = Callable[[str, int, str], AbstractContextManager[Bar]]
"""Opens a bar for a step, of a total in a unit; see `Reporter.bar`."""


class _Silent:
    def update(self, done: int) -> None: ...


def no_bar(what: str, total: int, unit: str) -> AbstractContextManager[Bar]:
    """Show nothing; an `OpenBar`."""
    return nullcontext(_Silent())


class Reporter(Protocol):
    """Receives the progress, notes and warnings of a scan or a prediction."""

    def bar(self, what: str, total: int, unit: str) -> AbstractContextManager[Bar]:
        """Open a bar for a step that takes longer than a second; its updates add up to `total`."""

    def say(self, line: str) -> None:
        """Give a note."""

    def warn(self, line: str) -> None:
        """Give a warning: something looks wrong, but does not stop the work."""
