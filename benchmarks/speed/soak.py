"""Memory, threads and open files of one process that scans for hours.

    python -m benchmarks.speed.soak [--slide SLIDE] [--hours 8] [--picture soak.png] \\
        [--out soak.json]

The process scans a slide again and again through `slidescan.scan`: each time it loads the model,
opens the slide, replaces the map and closes everything. What it holds is recorded after each scan;
a leak is a line that rises. The slopes are least squares over all but the first fifth, in which
caches fill. Needs Linux, which says in /proc what a process holds.

It stops where memory passes 4 GB, so that a leak takes no machine down.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

import slidescan
from benchmarks.speed.limits import slide_or_generated
from benchmarks.support.reports import about, keep, tell
from slidescan.pictures import style
from slidescan.tools.hardware import cores

PROCESS = Path("/proc/self")
MOST_MB = 4096
WARMING = 0.2
"""The share of the time that no slope is measured in."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process held after a scan, with those that it had started."""

    minutes: float
    memory_mb: float
    threads: int
    files: int


TITLES = {"memory_mb": "memory, MB", "threads": "threads", "files": "open files"}


def sample(started: float) -> Sample:
    """Of this process and those that it has started, as the one that reads slides."""
    processes = list(family(PROCESS))
    resident = sum(int((each / "statm").read_text().split()[1]) for each in processes)
    return Sample(
        round((time.monotonic() - started) / 60, 3),
        round(resident * os.sysconf("SC_PAGE_SIZE") / 2**20, 2),
        sum(len(list((each / "task").iterdir())) for each in processes),
        sum(len(list((each / "fd").iterdir())) for each in processes),
    )


def family(process: Path) -> Iterator[Path]:
    """A process and its descendants, as folders of /proc."""
    yield process
    for children in process.glob("task/*/children"):
        for pid in children.read_text().split():
            yield from family(PROCESS.with_name(pid))


def soak(slide: Path, folder: Path, model: str, threads: int, hours: float) -> list[Sample]:
    """Scan until the time is over; returns a sample for each scan."""
    started, samples = time.monotonic(), []
    while time.monotonic() - started < hours * 3600:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # doubts about the slide are those of the first scan
            slidescan.scan(slide, folder / "map.zarr", model=model, threads=threads, overwrite=True)
        samples.append(sample(started))
        if samples[-1].memory_mb > MOST_MB:
            click.echo(f"stopped: {samples[-1].memory_mb:,.0f} MB", err=True)
            break
    return samples


def slopes(samples: list[Sample]) -> dict[str, dict[str, float]]:
    """Of each quantity: first and last value, largest, and the growth in an hour."""
    warm = samples[int(len(samples) * WARMING) :]
    hours = np.array([each.minutes for each in warm]) / 60
    found = {}
    for name in TITLES:
        values = np.array([getattr(each, name) for each in samples], float)
        slope = np.polyfit(hours, values[-len(warm) :], 1)[0] if len(warm) > 2 else np.nan
        found[name] = {
            "after_one_scan": values[0],
            "warm": values[-len(warm)],
            "at_the_end": values[-1],
            "largest": values.max(),
            "growth_per_hour": round(float(slope), 3),
        }
    return found


def draw(path: Path, samples: list[Sample], title: str) -> None:
    drawn, panels = style.figure(1, len(TITLES), title)
    minutes = [each.minutes for each in samples]
    for panel, (name, what), colour in zip(panels, TITLES.items(), style.COLOURS, strict=False):
        values = [getattr(each, name) for each in samples]
        panel.plot(minutes, values, color=colour, linewidth=1)
        panel.set_ylim(0, 1.25 * max(values))  # from 0: a line that is flat looks flat
        style.name(panel, what, "minutes", "")
    style.save(path, drawn)


@click.command()
@click.option("--slide", type=click.Path(path_type=Path), help="[default: a generated slide]")
@click.option("--model", default="fast", show_default=True)
@click.option("--threads", default=cores(), show_default=True)
@click.option("--hours", type=click.FloatRange(0, min_open=True), default=8.0, show_default=True)
@click.option("--picture", type=click.Path(path_type=Path), help="PNG file, e.g. soak.png.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file, e.g. soak.json.")
def main(
    slide: Path | None,
    model: str,
    threads: int,
    hours: float,
    picture: Path | None,
    out: Path | None,
) -> None:
    """Scan for hours and record memory, threads and open files; print JSON."""
    if not PROCESS.exists():
        raise click.ClickException("needs Linux' /proc")
    with ExitStack() as stack:
        path = stack.enter_context(slide_or_generated(slide, 1))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        samples = soak(path, folder, model, threads, hours)
        shutil.rmtree(folder / "map.zarr")
    if picture:
        draw(picture, samples, f"{len(samples):,} scans in one process")
    name = slide.name if slide else "generated"
    held = {"scans": len(samples), "held": slopes(samples)}
    told = held | {"slide": name, "model": model, "threads": threads} | about()
    tell(told)
    if out:
        keep(out, told | {"samples": [asdict(each) for each in samples]})


if __name__ == "__main__":
    main()
