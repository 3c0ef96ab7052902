"""A batch in several processes of one machine: each has its own engine and takes the next slide."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import connection
from pathlib import Path
from typing import Any

from slidescan.errors import SlidescanError
from slidescan.scanning.cohort import Cohort, Outcome, Task
from slidescan.scanning.options import Options
from slidescan.scanning.session import Session
from slidescan.tools.hardware import cores
from slidescan.tools.worker_processes import obey_parent, sigint_blocked

PATIENCE_S = 60.0
"""How long a process may take to write its finished blocks after it was told to stop."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Slides to scan into a folder."""

    folder: Path
    tasks: Sequence[Task]
    since: str
    """when the command began"""


@dataclass(frozen=True, slots=True)
class _Share:
    """What a process gets."""

    batch: Batch
    options: Options
    command: str


def run_batch(
    batch: Batch, session: Session, jobs: int, on_outcome: Callable[[Outcome], object]
) -> list[Task]:
    """Scan a batch with `session`, or in `jobs` processes, which share the processors.

    See `Cohort.run`.

    Raises:
        SlidescanError: the manifest cannot be written; of the first process that raised one, or a
            process was killed.
        KeyboardInterrupt: once the processes have ended.
    """
    if jobs > 1:
        return _run_jobs(batch, session, jobs, on_outcome)
    return Cohort(batch.folder, session, since=batch.since).run(batch.tasks, on_outcome)


def _run_jobs(
    batch: Batch, session: Session, jobs: int, on_outcome: Callable[[Outcome], object]
) -> list[Task]:
    threads = max(1, (session.options.threads or cores()) // jobs)
    share = _Share(batch, replace(session.options, threads=threads), session.command)
    context = multiprocessing.get_context("spawn")
    taken = context.Value("q", 0)
    processes: dict[connection.Connection, Any] = {}
    try:
        for _ in range(min(jobs, len(batch.tasks))):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(share, taken, sender))
            with sigint_blocked():
                process.start()
            sender.close()  # so that the pipe ends with the process
            processes[receiver] = process
        return _gather(processes, on_outcome)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join(PATIENCE_S)


def _gather(
    processes: dict[connection.Connection, Any], on_outcome: Callable[[Outcome], object]
) -> list[Task]:
    """Pass outcomes on until all processes have ended; returns the slides of other processes."""
    busy: list[Task] = []
    failure: SlidescanError | None = None
    running = dict(processes)
    while running:
        for receiver in connection.wait(list(running)):
            assert isinstance(receiver, connection.Connection)
            try:
                found = receiver.recv()
            except EOFError:
                process = running.pop(receiver)
                process.join()
                failure = failure or _killed(process.exitcode)
                continue
            if isinstance(found, Outcome):
                on_outcome(found)
            elif isinstance(found, SlidescanError):
                failure = failure or found
            else:
                busy += found
    if failure:
        raise failure
    return busy


def _killed(exitcode: int) -> SlidescanError | None:
    if not exitcode:
        return None
    how = signal.Signals(-exitcode).name if exitcode < 0 else f"exit code {exitcode}"
    return SlidescanError(
        f"a process of --jobs ended early ({how}), perhaps for want of memory; the same command "
        "resumes, with fewer --jobs if it happens again"
    )


def _work(share: _Share, taken: Any, sender: connection.Connection) -> None:
    """Scan slides until none is left; runs in a process of its own."""
    obey_parent()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        session = Session(share.options, _Silent(), share.command)
        batch = share.batch
        cohort = Cohort(batch.folder, session, since=batch.since)
        sender.send(cohort.run(_next(batch.tasks, taken), sender.send))
    except SlidescanError as error:
        sender.send(error)
    except KeyboardInterrupt:
        pass


def _next(tasks: Sequence[Task], taken: Any) -> Iterator[Task]:
    """The tasks that no other process of the batch takes."""
    while True:
        with taken.get_lock():
            index = taken.value
            taken.value += 1
        if index >= len(tasks):
            return
        yield tasks[index]


class _Silent:
    """A reporter for the session that the sessions of slides are made from."""

    def bar(self, what: str, total: int, unit: str) -> Any:
        raise NotImplementedError("only the sessions of slides scan")

    def say(self, line: str) -> None: ...

    def warn(self, line: str) -> None: ...
