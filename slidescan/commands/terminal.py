"""What commands print while they run: progress bars, notes and warnings."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from slidescan.errors import one_line
from slidescan.tools.settings_diff import encodable
from slidescan.tools.urls import Place, without_secrets

if TYPE_CHECKING:
    from tqdm import tqdm

    from slidescan.errors import SlidescanError
    from slidescan.maps.store import Heatmap
    from slidescan.models.operating import OperatingTable
    from slidescan.slides.slide import Slide

PIXELS = "px"
"""The unit of counts of pixels, which a bar shows in megapixels."""


def bar(
    description: str, total: int, unit: str, *, hidden: bool = False, share: bool = False
) -> tqdm[Any]:
    """A progress bar on stderr; silent if hidden or where stderr is not a terminal.

    With `share` only the share of `total` is shown, and the time left by the mean speed.
    """
    count, scale = "{n_fmt}/{total_fmt} {unit}", 0.0  # 0: counts are shown as they are
    if unit == PIXELS:
        count, unit, scale = "{n:.2f}/{total:.2f} {unit}", "Mpx", 1e-6
    told = (
        "[{elapsed}<{remaining}]" if share else f"{count} [{{elapsed}}<{{remaining}}, {{rate_fmt}}]"
    )
    return plain_bar(
        desc=description,
        total=total,
        unit=unit,
        unit_scale=scale,
        bar_format=f"{{desc}}: {{percentage:3.0f}}%|{{bar}}| {told}",
        disable=hidden or None,
        smoothing=0.0 if share else 0.05,
    )


def plain_bar(*args: Any, disable: bool | None = None, **options: Any) -> tqdm[Any]:
    """tqdm's own bar on stderr, by its options; silent where stderr is not a terminal."""
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # no thread that warns where there is no memory to start it
    make: Any = tqdm
    made: tqdm[Any] = make(*args, disable=disable, dynamic_ncols=True, **options)
    return made


def say(message: str) -> None:
    """Print one line on stdout."""
    _tell(message, err=False)


def warn(message: str) -> None:
    """Print one line on stderr."""
    _tell(f"Warning: {one_line(message)}", err=True)


def print_error(error: SlidescanError) -> None:
    """Print an error that does not end the command, as one that does is printed."""
    _tell(f"Error: {error}", err=True)


def _tell(message: str, *, err: bool) -> None:
    try:
        click.echo(encodable(message), err=err)
    except OSError:
        # Nobody reads it (a closed pipe) or nobody can (a full disk): no reason to end hours of
        # work. From now on what is printed there is dropped.
        silence(sys.stderr if err else sys.stdout)


def silence(stream: TextIO) -> None:
    """Drop what is printed to a stream that cannot be written, its buffer included."""
    with suppress(OSError, ValueError):  # a stream without a file, as in tests
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class Terminal:
    """Reports a job to a person at a terminal; fulfils `slidescan.protocols.Reporter`."""

    bar = staticmethod(bar)
    say = staticmethod(say)
    warn = staticmethod(warn)


def operating_lines(table: OperatingTable) -> Iterator[str]:
    """The operating points of a model, a line each, and what they were chosen on."""
    from slidescan.tools.text_tables import aligned

    rates = "sensitivity", "specificity"
    rows = [("", "threshold", *rates, *(f"cross-fitted {rate}" for rate in rates))]
    for name, at in table.points.items():
        crossed = at.sensitivity_cross_fitted, at.specificity_cross_fitted
        chosen = f"{at.threshold:.4f}", f"{at.sensitivity:.4f}", f"{at.specificity:.4f}"
        rows.append((name, *chosen, *("-" if rate is None else f"{rate:.4f}" for rate in crossed)))
    yield from aligned(rows)
    yield f"of {table.patches:,} patches, SHA-256 {table.fingerprint[:12]}...; {table.data}"


def command_line() -> str:
    """The command as it was typed, for the record of what it makes; without signed queries."""
    return shlex.join(["slidescan", *map(without_secrets, sys.argv[1:])])


@contextmanager
def open_slide(path: Place, mpp: float | None) -> Iterator[Slide]:
    """Open a slide, fetched if it is an address, and print its warnings."""
    from slidescan.slides.slide import Slide

    with local(path) as file, Slide.open(file, mpp) as slide:
        _print_warnings(slide)
        yield slide


@contextmanager
def open_slide_of(heatmap: Heatmap, path: Place) -> Iterator[Slide]:
    """Open the slide that a map was made from, as `open_slide` does."""
    from slidescan.scanning import verification

    with local(path) as file, verification.open_slide_of(heatmap, file) as slide:
        _print_warnings(slide)
        yield slide


@contextmanager
def local(path: Place) -> Iterator[Path]:
    """The file of a slide; of an address, that in the folder of fetched slides."""
    if isinstance(path, Path):
        yield path
        return
    from slidescan.slides.staging import Stage

    with Stage().local(path, bar) as file:
        yield file


def _print_warnings(slide: Slide) -> None:
    for warning in slide.warnings:
        warn(f"{slide.path}: {warning}")
