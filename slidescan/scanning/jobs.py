"""A batch in several processes of one machine: each has its own engine and asks for slides.

A process that dies costs the slide that kills it: its slides in progress are scanned again, each in
a process of its own, once the others are done.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from typing import Any

from slidescan.errors import SlidescanError
from slidescan.scanning.cohort import Cohort, Outcome, Scanner
from slidescan.scanning.enrolment import Task
from slidescan.scanning.options import Options
from slidescan.scanning.session import Session
from slidescan.tools.hardware import cores
from slidescan.tools.urls import Place
from slidescan.tools.worker_processes import obey_parent, sigint_blocked

PATIENCE_S = 60.0
"""How long a process may take to write its finished blocks after it was told to stop."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Slides to scan into a folder."""

    folder: Place
    tasks: Sequence[Task]
    since: str
    """when the command began"""


@dataclass(frozen=True, slots=True)
class _Share:
    """What a process gets."""

    folder: Place
    since: str
    options: Options
    command: str


def run_batch(
    batch: Batch, session: Scanner, jobs: int, on_outcome: Callable[[Outcome], object]
) -> list[Task]:
    """Scan a batch with `session`, or in `jobs` processes, which share the processors.

    See `Cohort.run`.

    Raises:
        SlidescanError: the manifest cannot be written; of the first process that raised one, or a
            process died before it had a slide.
        KeyboardInterrupt: once the processes have ended.
    """
    cohort = Cohort(batch.folder, session, since=batch.since)
    if jobs <= 1:
        return cohort.run(batch.tasks, on_outcome)
    assert isinstance(session, Session)
    threads = max(1, (session.options.threads or cores()) // jobs)
    options = replace(session.options, threads=threads)
    share = _Share(batch.folder, batch.since, options, session.command)
    with _Processes(share, batch.tasks, on_outcome) as processes:
        processes.run(jobs)
        for task in processes.suspects:
            how = processes.run_alone(task)
            if how:
                on_outcome(cohort.give_up(task, f"a process that scanned it alone died ({how})"))
        return processes.result()


@dataclass(eq=False, slots=True)
class _Process:
    """A process of the batch, from here."""

    process: Any
    pipe: Any
    begun: dict[str, Task] = field(default_factory=dict)
    """the slides in progress, by the names of their maps"""


class _Processes:
    """Hands slides out to processes and passes outcomes on. Use it as a context manager."""

    def __init__(
        self, share: _Share, tasks: Sequence[Task], on_outcome: Callable[[Outcome], object]
    ) -> None:
        self._share, self._on_outcome = share, on_outcome
        self._waiting = deque(tasks)
        self._running: dict[Any, _Process] = {}
        self._busy: list[Task] = []
        self._failure: SlidescanError | None = None
        self.suspects: list[Task] = []
        """slides that were in progress when their process died"""

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._running.values():
            each.process.terminate()
            each.pipe.close()  # one that has asked for a slide waits for no answer
        for each in self._running.values():
            each.process.join(PATIENCE_S)
            each.process.kill()  # else Python would wait for it for ever, at its end

    def run(self, jobs: int) -> None:
        """Scan all slides, but for those that become suspects."""
        for _ in range(min(jobs, len(self._waiting))):
            self._start()
        while self._running:
            died = self._step()
            if died and died.begun:
                self.suspects += died.begun.values()
                if self._waiting:
                    self._start()

    def run_alone(self, task: Task) -> str | None:
        """Scan one slide in a process of its own; how that died, None where it did not."""
        self._waiting.append(task)
        self._start()
        how = None
        while self._running:
            died = self._step()
            how = _how(died.process.exitcode) if died else None
        self._waiting.clear()  # it may have died before it asked
        return how

    def result(self) -> list[Task]:
        """The slides that other processes are at. Raises SlidescanError of a process."""
        if self._failure:
            raise self._failure
        return self._busy

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(self._share, theirs))
        with sigint_blocked():
            process.start()
        theirs.close()  # so that the pipe ends with the process
        self._running[ours] = _Process(process, ours)

    def _step(self) -> _Process | None:
        """Hear what processes say; returns one that died."""
        for pipe in connection.wait(list(self._running)):
            each = self._running[pipe]
            try:
                found = each.pipe.recv()
            except (EOFError, ConnectionResetError):
                del self._running[pipe]
                each.process.join()
                each.pipe.close()
                if each.process.exitcode and not each.begun:
                    self._failure = self._failure or _ended_early(each.process.exitcode)
                if each.process.exitcode:
                    return each
                continue
            self._hear(each, found)
        return None

    def _hear(self, each: _Process, found: Outcome | SlidescanError | list[Task] | None) -> None:
        if found is None:  # it asks for a slide
            task = self._waiting.popleft() if self._waiting else None
            if task:
                each.begun[task.map_name] = task
            with suppress(BrokenPipeError, ConnectionResetError):  # it has died
                each.pipe.send(task)
        elif isinstance(found, Outcome):
            each.begun.pop(found.task.map_name, None)
            self._on_outcome(found)
        elif isinstance(found, SlidescanError):
            self._failure = self._failure or found
        else:
            self._busy += found
            each.begun.clear()


def _how(exitcode: int) -> str:
    """How a process died, as "SIGKILL"."""
    try:
        return signal.Signals(-exitcode).name if exitcode < 0 else f"exit code {exitcode}"
    except ValueError:
        return f"signal {-exitcode}"


def _ended_early(exitcode: int) -> SlidescanError:
    return SlidescanError(
        f"a process of --jobs ended early ({_how(exitcode)}), perhaps for want of memory; the same "
        "command resumes, with fewer --jobs if it happens again"
    )


def _work(share: _Share, pipe: Any) -> None:
    """Scan slides until there are no more; runs in a process of its own."""
    obey_parent()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    told = _Pipe(pipe)
    try:
        session = Session(share.options, _Silent(), share.command)
        cohort = Cohort(share.folder, session, since=share.since)
        told.send(cohort.run(told.tasks(), told.send))
    except SlidescanError as error:
        told.send(error)
    except KeyboardInterrupt:
        pass


class _Pipe:
    """The way to the parent. Safe from threads."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._sending = threading.Lock()

    def send(self, found: Outcome | SlidescanError | list[Task] | None) -> None:
        """Tell the parent an outcome, an error, or the slides of others at the end."""
        with self._sending, suppress(BrokenPipeError, ConnectionResetError):  # the parent ends
            self._pipe.send(found)

    def tasks(self) -> Iterator[Task]:
        """Ask the parent for one slide after the other. One thread at a time."""
        while True:
            self.send(None)
            try:
                task: Task | None = self._pipe.recv()
            except (EOFError, ConnectionResetError):  # the parent ends
                return
            if task is None:
                return
            yield task


class _Silent:
    """A reporter for the session that the sessions of slides are made from."""

    def bar(self, what: str, total: int, unit: str) -> Any:
        raise NotImplementedError("only the sessions of slides scan")

    def say(self, line: str) -> None: ...

    def warn(self, line: str) -> None: ...
