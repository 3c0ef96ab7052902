"""What `heatmap` prints of its slides: lines for people, or a JSON object for each slide."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import click

from slidescan.commands.terminal import bar, print_error, say, warn
from slidescan.errors import SlidescanError
from slidescan.tools.urls import Place

if TYPE_CHECKING:
    from tqdm import tqdm

    from slidescan.protocols import Bar
    from slidescan.scanning.cohort import Outcome
    from slidescan.scanning.enrolment import Task
    from slidescan.scanning.estimate import Estimator
    from slidescan.scanning.session import Summary

LogFormat = Literal["text", "json"]

LEFT = 75
"""Exit code where other processes are still at slides: EX_TEMPFAIL of sysexits.h."""


USUAL_BYTES = 10**9
"""Of a slide whose size is not known, for the bar."""


class Printer:
    """Prints what becomes of slides; fulfils `slidescan.protocols.Reporter` for a single one."""

    def __init__(self, log_format: LogFormat, quiet: bool) -> None:
        self.json = log_format == "json"
        self.quiet = quiet or self.json

    @contextmanager
    def bar(self, what: str, total: int, unit: str) -> Iterator[Bar]:
        with bar(what, total, unit, hidden=self.quiet) as progress:
            yield progress

    def say(self, line: str) -> None:
        if not self.quiet:
            say(line)

    def warn(self, line: str) -> None:
        if not self.json:
            warn(line)

    def scanned(
        self, slide: Place, target: Place, summary: Summary, warnings: Sequence[str]
    ) -> None:
        """Print the result of a single slide."""
        if self.json:
            state = "kept" if summary.complete_before else "done"
            found = {"megapixels": summary.megapixels, "seconds": summary.seconds}
            self.object(slide, target, state, **found, warnings=warnings)
        elif not summary.complete_before:
            shape = summary.rows, summary.columns
            cells = summary.scanned
            self.say(_line(target, shape, cells, summary.megapixels, summary.seconds))

    def failed(self, slide: Place, target: Place, reason: str) -> None:
        """Print the failure of a slide that does not end the command."""
        if self.json:
            self.object(slide, target, "failed", reason=reason)
        else:
            print_error(SlidescanError(reason))

    def object(self, slide: Place, target: Place, state: str, **more: object) -> None:
        """Print a line of JSON, whatever bytes the names have."""
        say(json.dumps({"slide": str(slide), "map": str(target), "state": state, **more}))


class BatchPrinter:
    """Prints the outcomes of a batch, with one bar for all of its slides."""

    def __init__(self, tasks: Sequence[Task], folder: Place, printer: Printer) -> None:
        self.tasks, self.folder, self.printer = tasks, folder, printer
        self.counts: Counter[str] = Counter()
        self.megapixels = 0.0
        self._bar: tqdm[Any] | None = None
        # Files tell beforehand how long a slide takes, roughly; in slides a rate would mislead.
        self._sizes = [_size(task.entry.slide) for task in tasks] if not printer.quiet else []

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar = bar(self._title(), sum(self._sizes), "", hidden=self.printer.quiet, share=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def __call__(self, outcome: Outcome) -> None:
        """Print an outcome and advance the bar."""
        self.counts[outcome.state] += 1
        self.megapixels += outcome.megapixels
        if self.printer.json:
            self._object(outcome)
            return
        assert self._bar is not None
        with self._bar.external_write_mode():
            self._lines(outcome)
        if not self.printer.quiet:
            size = _size(outcome.task.entry.slide)
            if outcome.state == "kept":  # took no time, so it must not count for the time left
                self._bar.total = (self._bar.total or size) - size
            else:
                self._bar.update(size)
            self._bar.set_description_str(self._title())

    def _title(self) -> str:
        done = sum(self.counts.values())
        rate = f", {self.megapixels:.0f} Mpx" if self.megapixels else ""
        return f"slide {done} of {len(self.tasks)}{rate}"

    def _lines(self, outcome: Outcome) -> None:
        task = outcome.task
        target = self.folder / task.map_name
        for text in outcome.warnings:
            warn(f"{task.entry.slide}: {text}")
        if outcome.state in ("failed", "missing"):
            self.printer.failed(task.entry.slide, target, _named(outcome))
        elif outcome.state == "done":
            megapixels, seconds = outcome.megapixels, outcome.seconds
            self.printer.say(_line(target, outcome.shape, outcome.scanned, megapixels, seconds))

    def _object(self, outcome: Outcome) -> None:
        found = {
            "megapixels": outcome.megapixels,
            "seconds": outcome.seconds,
            "reason": outcome.reason,
            "warnings": outcome.warnings,
        }
        slide, target = outcome.task.entry.slide, self.folder / outcome.task.map_name
        self.printer.object(slide, target, outcome.state, **found)

    def finish(self, busy: Sequence[Task]) -> None:
        """Say what is left, and end the command with the exit code for it.

        Raises:
            SlidescanError: a slide failed or is missing.
        """
        if kept := self.counts["kept"]:
            maps = "1 map is" if kept == 1 else f"{kept} maps are"
            self.printer.say(f"{maps} complete already, nothing to do")
        for task in busy:
            if self.printer.json:
                self.printer.object(task.entry.slide, self.folder / task.map_name, "busy")
        if busy:
            self.printer.say(
                f"{_slides(len(busy))} left to other processes that are still scanning: "
                f"slidescan status {self.folder}"
            )
        failed = self.counts["failed"] + self.counts["missing"]
        if failed:
            raise SlidescanError(
                f"{failed} of {len(self.tasks)} slides failed, see {self.folder / 'manifest.csv'}; "
                "the same command tries them again, and with --retry failed only them"
            )
        if busy:
            raise click.exceptions.Exit(LEFT)


def plan_batch(
    tasks: Sequence[Task], folder: Place, estimator: Estimator, printer: Printer
) -> None:
    """Print an estimate of each slide and their sum.

    Raises:
        SlidescanError: a slide cannot be scanned.
    """
    from slidescan.tools.text_tables import aligned

    header = ("map", "state", "tissue, mm2", "to scan, Mpx", "time", "at most, MB")
    rows: list[tuple[str, ...]] = [header]
    total, failed = [0.0, 0.0, 0.0, 0.0], 0
    with bar("planning", len(tasks), "slides", hidden=printer.quiet) as progress:
        for task in tasks:
            try:
                plan = estimator.plan(task)
            except SlidescanError as error:
                failed += 1
                with progress.external_write_mode():
                    printer.failed(task.entry.slide, folder / task.map_name, str(error))
            else:
                figures = plan.tissue_mm2 or 0.0, plan.megapixels, plan.seconds, plan.most_mb
                total = [whole + one for whole, one in zip(total, figures, strict=True)]
                rows.append((task.map_name, plan.state, *_figures(*figures)))
                if printer.json:
                    target = folder / task.map_name
                    printer.object(task.entry.slide, target, plan.state, **plan.figures())
            progress.update(1)
    rows.append((f"{len(tasks)} slides", "", *_figures(*total)))
    for line in aligned(rows) if not printer.json else ():
        say(line)
    if failed:
        raise SlidescanError(f"{failed} of {len(tasks)} slides cannot be scanned")


def _figures(tissue_mm2: float, megapixels: float, seconds: float, mb: float) -> tuple[str, ...]:
    minutes, rest = divmod(round(seconds), 60)
    time = f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
    return f"{tissue_mm2:.1f}", f"{megapixels:.1f}", time, f"{mb:.1f}"


def _slides(count: int) -> str:
    return "1 slide is" if count == 1 else f"{count} slides are"


def _named(outcome: Outcome) -> str:
    """The slide and the reason."""
    return f"{outcome.task.entry.slide}: {outcome.reason}"


def _line(
    target: Place, shape: tuple[int, int], scanned: int, megapixels: float, seconds: float
) -> str:
    return (
        f"{target}: {shape[0]} x {shape[1]} cells, {scanned} scanned, {megapixels:.1f} Mpx in "
        f"{seconds:.1f} s"
    )


def _size(slide: Place) -> int:
    if not isinstance(slide, Path):
        return USUAL_BYTES  # asking the store takes a request for each
    try:
        return max(1, slide.stat().st_size)
    except OSError:
        return 1
