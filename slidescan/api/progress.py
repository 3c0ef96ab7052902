"""Progress of a long call, for a callback instead of a terminal."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a step has come: `done` of `total`, in `unit` ("px", "patch")."""

    step: str
    """"finding tissue", "scanning" or "predicting"."""
    done: int
    total: int
    unit: str


OnProgress: TypeAlias = Callable[[Progress], object]


class Calls:
    """Reports to a callback, if there is one; fulfils `slidescan.protocols.Reporter`.

    Warnings become Python warnings. Notes are left out.
    """

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress or (lambda progress: None)

    @contextmanager
    def bar(self, what: str, total: int, unit: str) -> Iterator[_Bar]:
        """Call back with nothing done, and at every update."""
        yield _Bar(Progress(what, 0, total, unit), self._on_progress)

    def say(self, line: str) -> None: ...

    def warn(self, line: str) -> None:
        warnings.warn(line, stacklevel=2)


class _Bar:
    def __init__(self, state: Progress, on_progress: OnProgress) -> None:
        self._state, self._on_progress = state, on_progress
        on_progress(state)

    def update(self, done: int) -> None:
        self._state = replace(self._state, done=self._state.done + done)
        self._on_progress(self._state)
