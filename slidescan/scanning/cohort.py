"""Many slides into one folder: a map for each, and a manifest of what became of them.

Any number of processes may work on one folder. Each takes slides that no other is at, by leases.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from slidescan.errors import (
    OUT_OF_MEMORY,
    BusyError,
    ClusterError,
    SlidescanError,
    lacks_memory,
)
from slidescan.maps.record import find_record
from slidescan.protocols import Reporter
from slidescan.scanning.enrolment import Task
from slidescan.scanning.filling import Turns
from slidescan.scanning.in_progress import Progress, in_progress
from slidescan.scanning.manifest import FAILED, MISSING, Manifest, Row, is_finished
from slidescan.scanning.options import Options
from slidescan.scanning.pace import Pace
from slidescan.scanning.provenance import now
from slidescan.scanning.session import Summary
from slidescan.slides.staging import Stage
from slidescan.tools.atomic_files import remove_unheld_lock
from slidescan.tools.leases import AnyLeases, leases_in
from slidescan.tools.urls import Place, Url, is_there

LEASES = ".slidescan"
"""The folder of the leases, in that of the maps, while processes work there."""

LOG = "slidescan.log"
"""Tracebacks of unexpected errors, beside the manifest."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a slide in this run."""

    task: Task
    state: Literal["done", "kept", "failed", "missing", "busy"]
    """kept: it was done before. busy: another process is at it."""
    reason: str = ""
    warnings: tuple[str, ...] = ()
    shape: tuple[int, int] = (0, 0)
    """rows and columns of the map"""
    scanned: int = 0
    """cells with a value"""
    megapixels: float = 0.0
    seconds: float = 0.0


class Scanner(Protocol):
    """What scans slides: a `Session` in this process, or a cluster."""

    options: Options
    warnings: list[str]
    """of the last slide"""

    @property
    def stage(self) -> Stage:
        """The folder of slides that are fetched from addresses."""

    def beside(self, reporter: Reporter, turns: Turns, mpp: float | None) -> Scanner:
        """A scanner for another slide at the same time; see `Session.beside`."""

    def run(self, slide_path: Place, out: Place) -> Summary:
        """Scan a slide into the map `out`, or resume an earlier run. Raises SlidescanError."""

    def is_finished(self, slide_path: Place, out: Place) -> bool:
        """Whether `out` is a whole map of this slide, by these settings and versions."""

    def describe(self, out: Place) -> Row:
        """What the manifest says of a finished map. Raises MapError."""

    def pace(self) -> Pace:
        """When the slides of a batch are begun."""


class Cohort:
    """Scans slides into a folder, several at once, and records each in the manifest."""

    def __init__(self, folder: Place, session: Scanner, *, since: str | None = None) -> None:
        """`since` is when the command began: maps finished later are not overwritten again."""
        self.folder = folder
        self.session = session
        self.since = since or now()
        self.manifest = Manifest(folder)

    def run(self, tasks: Iterable[Task], on_outcome: Callable[[Outcome], object]) -> list[Task]:
        """Scan every slide that no other process is at; returns those that others still are at.

        `on_outcome` is called from this thread, for each slide as it ends.

        Raises:
            SlidescanError: the manifest cannot be written.
            KeyboardInterrupt: once the slides in progress have been stopped.
        """
        busy: list[Task] = []
        locked: list[Task] = []

        def sort(outcome: Outcome) -> None:
            if outcome.state == "busy":
                (locked if outcome.reason else busy).append(outcome.task)
            else:
                on_outcome(outcome)

        try:
            with leases_in(self.folder / LEASES) as leases:
                self._pass(tasks, leases, sort)
                while busy:
                    alive = leases.wait(task.map_name for task in busy)
                    again = [task for task in busy if task.map_name not in alive]
                    if not again:
                        break
                    busy = [task for task in busy if task.map_name in alive]
                    self._pass(again, leases, sort)
        finally:
            self.manifest.flush()
        remove_unheld_lock(self.manifest.path)
        return busy + locked

    def give_up(self, task: Task, reason: str) -> Outcome:
        """Record a slide that no process survived. Raises SlidescanError."""
        outcome = self._failed(task, reason)
        self.manifest.flush()
        return outcome

    def _pass(
        self, tasks: Iterable[Task], leases: AnyLeases, on_outcome: Callable[[Outcome], object]
    ) -> None:
        """Attempt every slide once."""

        def attempt(task: Task, progress: Progress) -> Outcome:
            return self._attempt(task, leases, progress)

        waiting = self.session.stage.ahead(tasks, lambda task: task.entry.slide)
        with closing(in_progress(waiting, self.session.pace(), attempt)) as outcomes:
            for outcome in outcomes:
                on_outcome(outcome)

    def _attempt(self, task: Task, leases: AnyLeases, progress: Progress) -> Outcome:
        """Scan a slide unless another process is at it."""
        if not leases.claim(task.map_name):
            return Outcome(task, "busy")
        try:
            outcome = self._scan(task, progress)
        except BusyError as error:  # a process that scans this slide alone, and has no lease
            return Outcome(task, "busy", str(error))
        except ClusterError:  # of no slide's making
            raise
        except SlidescanError as error:
            outcome = self._failed(task, str(error))
        except Exception as error:  # a bug in one slide must not stop the others
            self._log(task)
            why = OUT_OF_MEMORY if lacks_memory(error) else f"{type(error).__name__}: {error}"
            outcome = self._failed(task, f"{why}; see {LOG}")
        finally:
            leases.release(task.map_name)
        return outcome

    def _scan(self, task: Task, progress: Progress) -> Outcome:
        entry, target = task.entry, self.folder / task.map_name
        if not is_there(entry.slide):
            return self._failed(task, f"{entry.slide}: no such file", MISSING)
        if task.owner:
            return Outcome(task, "failed", f"{target} is the map of {task.owner}; change the name")
        if entry.problem:
            return self._failed(task, entry.problem)
        session = self.session.beside(progress, progress.pace.in_turn, entry.mpp)
        if self._done_before(session, task):
            return self._kept(task)
        summary = session.run(entry.slide, target)
        if summary.complete_before:
            return self._kept(task)
        self._record(task)
        return Outcome(
            task,
            "done",
            warnings=tuple(session.warnings),
            shape=(summary.rows, summary.columns),
            scanned=summary.scanned,
            megapixels=summary.megapixels,
            seconds=summary.seconds,
        )

    def _done_before(self, session: Scanner, task: Task) -> bool:
        target = self.folder / task.map_name
        if self.session.options.overwrite and not _finished_since(target, self.since):
            return False
        return session.is_finished(task.entry.slide, target)

    def _kept(self, task: Task) -> Outcome:
        remove_unheld_lock(self.folder / task.map_name)
        if not task.recorded:
            self._record(task)
        return Outcome(task, "kept")

    def _record(self, task: Task) -> None:
        """Write what the map says into the manifest."""
        row = self._row(task) | self.session.describe(self.folder / task.map_name)
        self.manifest.record(task.map_name, row)

    def _row(self, task: Task) -> Row:
        return {"slide": str(task.entry.slide), **task.entry.carried}

    def _failed(
        self, task: Task, reason: str, state: Literal["failed", "missing"] = FAILED
    ) -> Outcome:
        """Record a failure, unless there is a finished map: then the manifest has its figures."""
        target = self.folder / task.map_name
        reason = reason.removeprefix(f"{task.entry.slide}: ")
        try:
            finished = is_finished(target)
            if finished and not task.recorded:
                self._record(task)
        except SlidescanError:  # a finished map that cannot be read is a failure
            finished = False
        if not finished:
            self.manifest.record(
                task.map_name, self._row(task) | {"state": state, "reason": reason}
            )
        return Outcome(task, state, reason)

    def _log(self, task: Task) -> None:
        """Append the traceback of the current error to the log."""
        text = f"{now()} {task.entry.slide}\n{traceback.format_exc()}\n"
        log = self.folder / LOG
        if isinstance(log, Url):
            from slidescan.tools.objects.store import edit

            with suppress(SlidescanError):
                edit(log, lambda before: (before or b"") + text.encode("utf-8", "backslashreplace"))
            return
        with (
            suppress(OSError),
            log.open("a", encoding="utf-8", errors="backslashreplace") as file,
        ):
            file.write(text)


def _finished_since(target: Place, since: str) -> bool:
    record = find_record(target)
    made = str(((record or {}).get("provenance") or {}).get("finished", ""))
    return made >= since
