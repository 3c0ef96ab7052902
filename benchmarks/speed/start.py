"""How long the whole command takes on a small slide, where starting is most of it.

    python -m benchmarks.speed.start [SLIDE] [--against FOLDER] [--rounds 7]

Without SLIDE it is the slide of `make demo`. Runs `slidescan heatmap SLIDE` of this checkout and,
with --against, of another one in turn, each in a process of its own and into a new map, so that
both meet the same load of the machine. The first run of each fills the cache of compiled networks
and is reported apart.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.support.reports import about, tell

HERE = Path(__file__).parents[2]
DEMO = HERE / "demo" / "CMU-1-Small-Region.svs"


def scan(checkout: Path, slide: Path, cache: Path) -> tuple[float, float]:
    """Seconds and processor seconds of `slidescan heatmap` from a checkout."""
    path = os.pathsep.join(map(str, (checkout, checkout / "train")))
    environment = os.environ | {"PYTHONPATH": path, "XDG_CACHE_HOME": str(cache)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "slidescan", "heatmap", slide, "--device", "cpu"]
        before, started = _processor_s(), time.perf_counter()
        # From an empty folder: with -m, Python looks for the package in the current one first.
        done = subprocess.run(
            [*map(str, command), "--out", "map.zarr"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        seconds, used = time.perf_counter() - started, _processor_s() - before
    if done.returncode:
        raise click.ClickException(f"{checkout}: slidescan heatmap failed: {done.stderr.strip()}")
    return seconds, used


def _processor_s() -> float:
    """Of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@click.command()
@click.argument("slide", type=click.Path(exists=True, path_type=Path), default=DEMO)
@click.option(
    "--against",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of another checkout, e.g. of the commit before.",
)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
def main(slide: Path, against: Path | None, rounds: int) -> None:
    """Print seconds of each checkout as JSON, and the ratio of the fastest runs."""
    checkouts = {"this": HERE} | ({"against": against.resolve()} if against else {})
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(rounds + 1):
            for name, checkout in checkouts.items():
                times[name].append(scan(checkout, slide.resolve(), Path(cache, name)))
    found = {name: _summary(runs) for name, runs in times.items()}
    result: dict[str, object] = {"slide": slide.name, "rounds": rounds, **found}
    if against:
        for key in "fastest_s", "processor_s":
            result[f"ratio_{key}"] = round(found["this"][key] / found["against"][key], 2)
    tell(result | about())


def _summary(runs: list[tuple[float, float]]) -> dict[str, float]:
    (first, _), *later = runs
    seconds = [each for each, _ in later]
    return {
        "first_s": round(first, 2),
        "fastest_s": round(min(seconds), 2),
        "median_s": round(statistics.median(seconds), 2),
        "processor_s": round(min(used for _, used in later), 2),
    }


if __name__ == "__main__":
    main()
