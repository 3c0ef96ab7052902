"""Scans slides by a cluster: the head that a `Cohort` uses like a session of this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from slidescan.errors import ClusterError, SlidescanError
from slidescan.maps.creation import check_target, locked
from slidescan.protocols import Bar, Reporter
from slidescan.scanning.cluster import worker
from slidescan.scanning.cluster.connection import LOCAL, Cluster, Tasks, connected
from slidescan.scanning.cluster.slots import Slots
from slidescan.scanning.cluster.tasks import TASK_PX, Group, Job, Prepared, Target
from slidescan.scanning.filling import Turns
from slidescan.scanning.manifest import Row
from slidescan.scanning.manifest import is_finished as marked_complete
from slidescan.scanning.options import Options
from slidescan.scanning.pace import Pace
from slidescan.scanning.provenance import versions
from slidescan.scanning.session import Summary
from slidescan.slides.damage import Found
from slidescan.slides.staging import Stage
from slidescan.tools.atomic_files import release
from slidescan.tools.hardware import cores
from slidescan.tools.settings_diff import JSON
from slidescan.tools.urls import Place

MOST_SLIDES = 1024
"""Slides in progress, each of which has a thread of the head that waits for its tasks."""

LEAST_SLIDES = 4
"""Slides in progress even where the first has work for all, so that small ones go along."""

P = ParamSpec("P")
R = TypeVar("R")


class ClusterPace(Pace):
    """Begins a slide when those in progress have too few tasks for all workers."""

    most = MOST_SLIDES

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self._slots = slots

    def _soon(self) -> bool:
        if self._slides < LEAST_SLIDES:
            return True
        tasks = max(self._slides, self._preparing + self._left_px // TASK_PX)
        return tasks < self._slots.limit and self._slides < self.most


class ClusterScanner:
    """Scans slides with one model or ensemble on the workers; fulfils `cohort.Scanner`."""

    def __init__(
        self,
        cluster: Cluster,
        options: Options,
        reporter: Reporter,
        command: str,
        folder: Path,
    ) -> None:
        """Let the workers load the model. `folder` is that of the maps.

        Raises ClusterError where a worker cannot, sees no `folder`, or differs from this process or
        from the others.
        """
        self.cluster = cluster
        self.options = replace(options, models=tuple(map(_absolute, options.models)))
        self.reporter = reporter
        self.warnings: list[str] = []
        self._mpp: float | None = None
        self._job = Job(self.options, command, agree(cluster, self.options, command, folder))

    def beside(self, reporter: Reporter, turns: Turns, mpp: float | None) -> ClusterScanner:
        """A scanner for another slide at the same time; the slots say whose turn it is."""
        other = copy(self)
        other.reporter, other.warnings, other._mpp = reporter, [], mpp
        return other

    def run(self, slide_path: Place, out: Place) -> Summary:
        """Scan a slide into the map `out`, or resume an earlier run.

        Raises `SlidescanError`; finished blocks stay.
        """
        started = time.perf_counter()
        self.warnings.clear()
        target = self._target(slide_path, out)
        check_target(Path(target.out))
        with locked(Path(target.out)) as held:  # and kept
            pass
        try:
            return self._run(target, started)
        finally:
            release(held)

    def _run(self, target: Target, started: float) -> Summary:
        with self.reporter.bar("finding tissue", 1, "slide") as step:
            prepared = self._call(step, worker.prepare, target)
            step.update(1)
        self._warn(target, prepared.warnings)
        for line in prepared.notes:
            self.reporter.say(line)
        if prepared.complete:
            return prepared.complete
        pixels = sum(group.pixels for group in prepared.groups)
        with self.reporter.bar("scanning", pixels, "px") as progress:
            damaged = set(prepared.damaged) | self._fill(prepared, progress)
            finished = self._call(
                progress,
                worker.finish,
                prepared.target,
                sorted(damaged, key=lambda each: (each.level, each.box_l0[::-1])),
                list(prepared.warnings),
                round(pixels / 1e6, 3),
                time.perf_counter() - started,
            )
        self._warn(target, finished.warnings[len(self.warnings) :])
        return finished.summary

    def _fill(self, prepared: Prepared, progress: Bar) -> set[Found]:
        """Scan the blocks; returns the damage of the slide that was seen."""
        tasks, slots = Tasks(self.cluster), self.cluster.slots
        waiting: dict[str, Group] = {}
        damaged: set[Found] = set()

        def look() -> None:
            progress.update(0)  # raises where the batch was stopped
            self.cluster.check()

        def ended(key: str, found: list[Found]) -> None:
            damaged.update(found)
            progress.update(waiting.pop(key).pixels)

        try:
            for group in prepared.groups:
                slots.take(look)
                try:
                    key = tasks.submit(
                        worker.scan_blocks,
                        self._job,
                        prepared.target,
                        group.blocks,
                        on_end=slots.give,
                    )
                except BaseException:
                    slots.give()
                    raise
                waiting[key] = group
                for result in tasks.ready():
                    ended(*result)
            while waiting:
                ended(*tasks.next(look))
        finally:
            tasks.cancel()
        return damaged

    def is_finished(self, slide_path: Place, out: Place) -> bool:
        """Whether `out` is a whole map of this slide, by these settings and versions."""
        # Most are not, and this tells without a task.
        return marked_complete(out) and self._call(
            None, worker.is_finished, self._target(slide_path, out)
        )

    def describe(self, out: Place) -> Row:
        """What the manifest says of a finished map. Raises MapError."""
        return self._call(None, worker.describe, self._target(out, out))

    def pace(self) -> Pace:
        """When a batch begins its slides."""
        return ClusterPace(self.cluster.slots)

    def _call(
        self, progress: Bar | None, function: Callable[Concatenate[Job, P], R], *args: Any
    ) -> R:
        def look() -> None:
            if progress:
                progress.update(0)

        return self.cluster.call(look, function, self._job, *args)

    def _target(self, slide: Place, out: Place) -> Target:
        if not (isinstance(slide, Path) and isinstance(out, Path)):
            raise SlidescanError(
                f"{slide}: a cluster scans slides in folders that all machines see, not addresses"
            )
        return Target(str(slide.absolute()), str(out.resolve()), self._mpp)

    @property
    def stage(self) -> Stage:
        """The folder of slides that are fetched from addresses, of which there are none."""
        return Stage(self.options.slide_cache, self.options.slide_cache_gb)

    def _warn(self, target: Target, texts: Sequence[str]) -> None:
        self.warnings += texts
        for text in texts:
            self.reporter.warn(f"{target.slide}: {text}")


def _absolute(model: str) -> str:
    """A model's file by its whole path, for workers in other folders; names stay."""
    return str(Path(model).absolute()) if Path(model).exists() else model


def agree(cluster: Cluster, options: Options, command: str, folder: Path) -> dict[str, JSON]:
    """What versions, engine and model all workers have."""
    found = cluster.on_all(worker.introduce, options, command, str(folder.absolute()))
    agreed: dict[str, JSON] = {}
    for address, own in found.items():
        if isinstance(own, str):
            raise ClusterError(f"worker {address}: {own}")
        agreed = agreed or {**own, "versions": _versions(own["versions"], address)}
        if own != agreed:
            raise ClusterError(worker.unlike(address, own, agreed))
    return agreed


def _versions(own: Any, address: str) -> Any:
    """Check a worker's versions against those of this process.

    Builds of one version count as equal: torch's is another where there is a GPU.
    """
    public = {name: str(number).partition("+")[0] for name, number in own.items()}
    here = {name: str(number).partition("+")[0] for name, number in versions().items()}
    if public != here:
        raise ClusterError(worker.unlike(address, {"versions": public}, {"versions": here}))
    return own


@contextmanager
def cluster_scanner(
    where: str, jobs: int, options: Options, reporter: Reporter, command: str, folder: Path
) -> Iterator[ClusterScanner]:
    """Connect to a cluster and let its workers load the model; see `connected`.

    `jobs` is the number of processes of a cluster on this machine, which share the processors; 0
    is one for each. `folder` is that of the maps.
    """
    if where == LOCAL:
        threads = options.threads or cores()
        jobs = jobs or threads
        options = replace(options, threads=max(1, threads // jobs))
    with connected(where, jobs, reporter.warn) as cluster:
        try:
            yield ClusterScanner(cluster, options, reporter, command, folder)
        finally:
            cluster.tell_all(worker.forget)
