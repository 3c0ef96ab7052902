"""What a worker does: prepare a map, scan some of its blocks, finish it.

A worker process has one session with its model and engine, and keeps the last slides open. It reads
pixels and writes shards itself. The head holds the lock and the lease of the map meanwhile. A task
may run again, on another worker: blocks that are on the disk are not scanned again.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from slidescan.errors import ClusterError, MapError, SlidescanError
from slidescan.geometry import Box
from slidescan.maps.record import find_record
from slidescan.maps.replacement import recover, successor
from slidescan.maps.store import Heatmap
from slidescan.protocols import no_bar
from slidescan.scanning.cluster.tasks import Finished, Job, Prepared, Target, groups
from slidescan.scanning.filling import Scan
from slidescan.scanning.manifest import Row
from slidescan.scanning.options import Options
from slidescan.scanning.provenance import versions
from slidescan.scanning.session import Session, summary
from slidescan.slides.damage import Found
from slidescan.slides.slide import Slide
from slidescan.tools.settings_diff import JSON

KEPT_OPEN = 4
"""Slides that a worker keeps open for its next task."""

P = ParamSpec("P")
R = TypeVar("R")


class Notes:
    """A reporter that keeps the notes for the head; the session keeps the warnings."""

    bar = staticmethod(no_bar)

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def warn(self, line: str) -> None: ...


@dataclass(slots=True)
class _Open:
    """A slide and its map, and how many tasks use them."""

    closing: ExitStack
    scan: Scan
    users: int = 0


@dataclass(slots=True)
class _Process:
    """What this process keeps from one task to the next."""

    sessions: dict[tuple[Options, str], Session] = field(default_factory=dict)
    opened: OrderedDict[Target, _Open] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)


_PROCESS = _Process()


def introduce(
    options: Options, command: str, folder: str, dask_worker: Any
) -> dict[str, JSON] | str:
    """Load the model; returns what all workers must agree on, or why this one cannot be used.

    Dask passes the worker.
    """
    if not Path(folder).is_dir():
        return f"does not see the folder {folder}; maps must be on a file system that all see"
    try:
        return _agreement(_session(options, command, dask_worker.state.nthreads))
    except SlidescanError as error:
        return str(error)


def _agreement(session: Session) -> dict[str, JSON]:
    return {
        "versions": versions(),
        **session.backend.record(),
        **session.ensemble.record(),
    }


def _session(options: Options, command: str, threads: int) -> Session:
    """The session of these options, whose engine has as many threads as the worker."""
    with _PROCESS.lock:
        key = options, command
        if key not in _PROCESS.sessions:
            own = replace(options, threads=options.threads or threads)
            _PROCESS.sessions[key] = Session(own, Notes(), command)
        return _PROCESS.sessions[key]


def _session_for(job: Job, target: Target) -> tuple[Session, Notes]:
    """A session for one task. Raises ClusterError where this worker differs from the others."""
    from distributed import get_worker

    worker = get_worker()
    try:
        session = _session(job.options, job.command, worker.state.nthreads)
    except SlidescanError as error:
        raise ClusterError(f"worker {worker.address}: {error}") from error
    if (own := _agreement(session)) != job.agreed:
        raise ClusterError(unlike(worker.address, own, job.agreed))
    notes = Notes()
    return session.beside(notes, iter, target.mpp), notes


def unlike(address: str, own: Any, agreed: Any) -> str:
    """What is different about a worker, in one line."""
    keys = [key for key in agreed if own.get(key) != agreed[key]]
    if keys == ["versions"]:
        here, there = own["versions"], agreed["versions"]
        told = [f"{n} {here.get(n)}, not {there[n]}" for n in there if here.get(n) != there[n]]
        return f"worker {address} has {', '.join(told)}; install the same versions everywhere"
    told = [f"{key} {own.get(key)} instead of {agreed[key]}" for key in keys if key != "versions"]
    return (
        f"worker {address} would scan with {', '.join(told)}; name --engine, --device and "
        "--precision, and give all workers the same model"
    )


def _one_line_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Let a SlidescanError reach the head whatever its constructor takes."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except SlidescanError as error:
            kind = ClusterError if isinstance(error, ClusterError) else SlidescanError
            raise kind(str(error)) from None

    return wrapped


@_one_line_errors
def prepare(job: Job, target: Target) -> Prepared:
    """Find the tissue of a slide, make or open its map, and divide what is missing into tasks."""
    session, notes = _session_for(job, target)
    with session.begin(Path(target.slide), Path(target.out), lent=True) as scan:
        heatmap = scan.heatmap
        work = [] if heatmap.complete else scan.missing()
        if work and (done := scan.blocks() - len(work)):
            notes.say(f"{target.out}: resuming, {done} of {scan.blocks()} blocks are finished")
        started = str(heatmap.provenance["started"])
        complete = None
        if heatmap.complete:
            notes.say(f"{target.out}: complete already, nothing to do")
            complete = session.complete(scan)
        return Prepared(
            target=replace(target, started=started, replaces=heatmap.replaces),
            groups=tuple(groups(scan, work)),
            notes=tuple(notes.lines),
            warnings=tuple(session.warnings),
            damaged=tuple(scan.plane.slide.damage.all()),
            complete=complete,
        )


@_one_line_errors
def scan_blocks(job: Job, target: Target, blocks: tuple[Box, ...]) -> list[Found]:
    """Scan blocks that are not on the disk; returns the damage of the slide that was seen."""
    session, _ = _session_for(job, target)
    with _opened(session, target) as scan:
        missing = [block for block in blocks if not scan.heatmap.done(block)]
        work = list(scan.tiling.work(missing, scan.heatmap.mask))
        if work:
            session.fill(scan, work)
        return scan.plane.slide.damage.all()


@_one_line_errors
def finish(
    job: Job,
    target: Target,
    damaged: list[Found],
    warnings: list[str],
    megapixels: float,
    seconds: float,
) -> Finished:
    """Write the coarser levels and the record."""
    session, _ = _session_for(job, target)
    session.warnings += warnings
    out = Path(target.out)
    if target.replaces:
        recover(out)  # a worker may have been killed as it put the new map in place
        target = replace(target, replaces=find_record(successor(out)) is not None)
    record = find_record(out) or {}
    if not target.replaces and record.get("complete") is True:  # by a worker that was killed after
        if record["provenance"]["started"] != target.started:
            raise MapError(f"{out}: another scan has taken its place; this one ends")
        found = summary(Heatmap.open(out), megapixels, seconds)
        return Finished(found, tuple(record["provenance"].get("warnings", warnings)))
    with session.open_slide(Path(target.slide)) as slide, _map_of(session, target, slide) as scan:
        found = session.finish(scan, damaged, megapixels, time.perf_counter() - seconds)
    return Finished(found, tuple(session.warnings))


@_one_line_errors
def is_finished(job: Job, target: Target) -> bool:
    """`Session.is_finished`."""
    session, _ = _session_for(job, target)
    return session.is_finished(Path(target.slide), Path(target.out))


@_one_line_errors
def describe(job: Job, target: Target) -> Row:
    """`Session.describe`."""
    return _session_for(job, target)[0].describe(Path(target.out))


def forget() -> None:
    """Close the slides and let the models go."""
    with _PROCESS.lock:
        _PROCESS.sessions.clear()
        _close_unused(0)


@contextmanager
def _opened(session: Session, target: Target) -> Iterator[Scan]:
    """A slide and its map, opened once for several tasks."""
    with _PROCESS.lock:
        found = _PROCESS.opened.get(target)
        if found is None:
            with ExitStack() as stack:
                slide = stack.enter_context(session.open_slide(Path(target.slide)))
                scan = stack.enter_context(_map_of(session, target, slide))
                found = _Open(stack.pop_all(), scan)
            _PROCESS.opened[target] = found
        found.users += 1
        _PROCESS.opened.move_to_end(target)
        _close_unused(KEPT_OPEN)
    try:
        yield found.scan
    finally:
        with _PROCESS.lock:
            found.users -= 1


def _close_unused(kept: int) -> None:
    for target, each in list(_PROCESS.opened.items())[: max(0, len(_PROCESS.opened) - kept)]:
        if not each.users:
            del _PROCESS.opened[target]
            each.closing.close()


@contextmanager
def _map_of(session: Session, target: Target, slide: Slide) -> Iterator[Scan]:
    with Heatmap.join(Path(target.out), target.started, replaces=target.replaces) as heatmap:
        yield Scan(slide.plane(session.ensemble.mpp), heatmap, session.tiling)
