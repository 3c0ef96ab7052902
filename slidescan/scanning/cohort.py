"""Many slides into one folder: a map for each, and a manifest of what became of them.

Any number of processes may work on one folder. Each takes slides that no other is at, by leases.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal, Protocol

from slidescan.errors import (
    OUT_OF_MEMORY,
    BusyError,
    ClusterError,
    SlidescanError,
    lacks_memory,
)
from slidescan.maps.record import find_record
from slidescan.protocols import Bar, Reporter
from slidescan.scanning.filling import Turns
from slidescan.scanning.listing import Entry, name_maps
from slidescan.scanning.manifest import (
    DONE,
    FAILED,
    MANIFEST,
    MISSING,
    WAITING,
    Manifest,
    Row,
    is_finished,
    read_manifest,
)
from slidescan.scanning.options import Options
from slidescan.scanning.pace import Pace
from slidescan.scanning.provenance import now
from slidescan.scanning.session import Summary
from slidescan.slides.staging import Stage
from slidescan.tools.atomic_files import check_folder, remove_unheld_lock, writing
from slidescan.tools.leases import AnyLeases, leases_in
from slidescan.tools.urls import Place, Url, is_there

LEASES = ".slidescan"
"""The folder of the leases, in that of the maps, while processes work there."""

LOG = "slidescan.log"
"""Tracebacks of unexpected errors, beside the manifest."""


@dataclass(frozen=True, slots=True)
class Task:
    """A slide and its map, in the order of the list."""

    entry: Entry
    map_name: str
    """the name of the map's folder, which ends in .zarr"""
    state: str = WAITING
    """in the manifest, before this run"""
    recorded: bool = False
    """whether the manifest has the figures of its finished map"""
    owner: str = ""
    """another slide, if the map of this name is its"""


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


def prepare_folder(folder: Place) -> None:
    """Create the folder of maps. Raises SlidescanError where it or its manifest is not ours."""
    if isinstance(folder, Path):  # a store has no folders
        check_folder(folder)
        with writing(folder):
            folder.mkdir(exist_ok=True)
    read_manifest(folder / MANIFEST)


def enrol(entries: Sequence[Entry], folder: Place, *, write: bool = True) -> list[Task]:
    """Choose the names of the maps and put slides that are new into the manifest, as waiting.

    Args:
        entries: the slides, see `read_arguments`.
        folder: the folder of maps.
        write: false only looks.

    Raises:
        SlidescanError: the manifest cannot be read or written.
    """
    tasks: list[Task] = []

    def add(rows: dict[str, Row]) -> None:
        known = {name.removesuffix(".zarr"): row["slide"] for name, row in rows.items()}
        names = name_maps(entries, known)
        pairs = zip(entries, names, strict=True)
        tasks[:] = [_enrolled(entry, f"{name}.zarr", rows) for entry, name in pairs]

    # Of a thousand jobs that start with the same list, only the first needs the lock.
    rows = read_manifest(folder / MANIFEST)
    before = deepcopy(rows)
    add(rows)
    if write and rows != before:
        Manifest(folder).edit(add)
    return tasks


def _enrolled(entry: Entry, map_name: str, rows: dict[str, Row]) -> Task:
    """Put a slide into the rows, unless a map of this name is another slide's."""
    mpp = "" if entry.mpp is None else f"{entry.mpp:g}"
    slide = str(entry.slide)
    row = rows.setdefault(map_name, {"slide": slide, "state": WAITING, "mpp": mpp})
    if row["slide"] != slide and is_there(row["slide"]):
        return Task(entry, map_name, owner=row["slide"])
    row.update(entry.carried, slide=slide, map=map_name)
    state = row["state"]
    return Task(entry, map_name, state, recorded=state == DONE and bool(row.get("settings")))


def selected(
    tasks: list[Task], shard: tuple[int, int] = (1, 1), state: str | None = None
) -> list[Task]:
    """The tasks of a part (i, n) of the list, and of those the ones in a state of the manifest."""
    part, parts = shard
    return [task for task in tasks[part - 1 :: parts] if state in (None, task.state)]


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
        pace, outcomes = self.session.pace(), SimpleQueue[Outcome | BaseException | None]()
        waiting = self.session.stage.ahead(tasks, lambda task: task.entry.slide)

        def attempt(task: Task) -> None:
            with _ending_in(outcomes), _Progress(pace) as progress:
                outcomes.put(self._attempt(task, leases, progress))

        def begin() -> None:
            try:
                with _ending_in(outcomes), ThreadPoolExecutor(pace.most, "slide") as slides:
                    while pace.begin() and (task := next(waiting, None)) is not None:
                        slides.submit(attempt, task)
            finally:
                outcomes.put(None)

        with ThreadPoolExecutor(1, "batch") as starter:
            starter.submit(begin)
            try:
                for outcome in _until_ended(outcomes):
                    on_outcome(outcome)
            finally:
                pace.stop()

    def _attempt(self, task: Task, leases: AnyLeases, progress: _Progress) -> Outcome:
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

    def _scan(self, task: Task, progress: _Progress) -> Outcome:
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


class Stopped(BaseException):
    """The batch was stopped; raised in the threads of its slides."""


@contextmanager
def _ending_in(outcomes: SimpleQueue[Outcome | BaseException | None]) -> Iterator[None]:
    """Put an error that ends the batch into the queue; it is raised in the caller's thread."""
    try:
        yield
    except Stopped:
        pass
    except BaseException as error:
        outcomes.put(error)


def _until_ended(
    outcomes: SimpleQueue[Outcome | BaseException | None],
) -> Iterator[Outcome]:
    """Yield outcomes until None."""
    while True:
        try:
            # With a timeout: without, Ctrl-C does not interrupt the wait on Windows.
            found = outcomes.get(timeout=1)
        except Empty:
            continue
        if found is None:
            return
        if isinstance(found, BaseException):
            raise found
        yield found


def _finished_since(target: Place, since: str) -> bool:
    record = find_record(target)
    made = str(((record or {}).get("provenance") or {}).get("finished", ""))
    return made >= since


class _Progress:
    """The reporter of a slide of a batch: tells the pace how many of its pixels are scanned."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._left: int | None = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
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
