"""How busy the processors are while many small slides are scanned.

    python -m benchmarks.speed.cohort [--slides 200] [--flags "--jobs 2"]

Writes made-up slides of 2,048 x 2,048 px at the model's resolution (4 Mpx of tissue on glass, JPEG
tiles, a level of 4) and runs `slidescan heatmap FOLDER --out FOLDER` on all of them, the start of
the program included.

The busy share is sampled: how many threads of the run compute or wait for a processor, at most the
number of processors, divided by that number. So it means something on a machine that others use as
well; there the seconds do not, and the processor time is the better measure.
"""

from __future__ import annotations

import resource
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import tifffile
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.speed.shared import texture
from benchmarks.support.reports import about, tell
from slidescan.models.model import load
from slidescan.tools.hardware import cores

SIDE = 2048
DIFFERENT = 8
"""Slides with different pixels; further ones are copies of these under other names."""
SAMPLE_S = 0.02


@dataclass(frozen=True, slots=True)
class Run:
    """One run of `slidescan heatmap`."""

    seconds: float
    cpu_s: float
    """Processor time of the run and of its child processes."""
    busy: float
    """The mean over the samples."""


def write_slides(folder: Path, count: int, mpp: float) -> list[Path]:
    """Write the slides, each with its own section of tissue on glass."""
    drawn = texture(SIDE + DIFFERENT * 16)
    y, x = np.ogrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    glass = (y**2 + x**2 > 0.9)[..., None]
    paths = []
    for number in tqdm(range(count), desc="writing slides", disable=None):
        path = folder / f"slide-{number:04}.tif"
        if number < DIFFERENT:
            part = drawn[number * 16 :][:SIDE, number * 16 :][:, :SIDE]
            _write(path, np.where(glass, np.uint8(243), part), mpp)
        else:
            path.write_bytes(paths[number % DIFFERENT].read_bytes())
        paths.append(path)
    return paths


def _write(path: Path, pixels: NDArray[np.uint8], mpp: float) -> None:
    with tifffile.TiffWriter(path) as tiff:
        for step in (1, 4):
            tiff.write(
                pixels[::step, ::step],
                tile=(256, 256),
                photometric="ycbcr",
                compression="jpeg",
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
                subfiletype=int(step > 1),
                metadata=None,
            )


def _running(pid: int) -> int:
    """How many threads of a process and of its children compute or wait for a processor."""
    count = 0
    with suppress(OSError):  # a thread or a process may end while it is looked at
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                # The state follows the name, which is in brackets and may contain some itself.
                count += (thread / "stat").read_text().rpartition(")")[2].split()[0] == "R"
                for child in (thread / "children").read_text().split():
                    count += _running(int(child))
    return count


def scan(arguments: list[str]) -> Run:
    """Run `slidescan heatmap` and measure it."""
    samples, most = [], cores()
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(
            [sys.executable, "-m", "slidescan", "heatmap", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=messages,
        )
        while process.poll() is None:
            samples.append(min(_running(process.pid), most) / most)
            time.sleep(SAMPLE_S)
        seconds = time.perf_counter() - started
        if process.returncode:
            messages.seek(0)
            raise click.ClickException(f"slidescan heatmap failed: {messages.read()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(seconds, cpu_s, sum(samples) / len(samples))


@click.command()
@click.option("--slides", "count", type=click.IntRange(1), default=200, show_default=True)
@click.option("--model", default="fast", show_default=True)
@click.option("--flags", default="", help="Further options of `slidescan heatmap`, as one text.")
def main(count: int, model: str, flags: str) -> None:
    """Print seconds and the busy share as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        (slides := Path(folder, "slides")).mkdir()
        paths = write_slides(slides, count, load(model).card.mpp)
        out = str(Path(folder, "maps"))
        run = scan([*map(str, paths), "--out", out, "--model", model, *shlex.split(flags)])
    tell(
        {
            "slides": count,
            "megapixels_each": SIDE**2 / 1e6,
            "model": model,
            "flags": flags,
            "processors": cores(),
            "seconds": round(run.seconds, 2),
            "seconds_a_slide": round(run.seconds / count, 3),
            "processor_seconds": round(run.cpu_s, 2),
            "busy_share": round(run.busy, 3),
            **about(),
        }
    )


if __name__ == "__main__":
    main()
