"""The time of a scan against its limits: reading the slide, and the network's arithmetic.

    python -m benchmarks.speed.limits [--slide SLIDE] [--precision bf16] [--threads 2] \
        [--out limits.json]

The same tiles are processed three times in one process: only read, by as many threads as a scan
has; only scored, from tiles of the same shapes in memory; and scanned, as by `slidescan heatmap`.
Reading and scoring overlap, so the scan should take as long as the slower of the two:

    efficiency = max(read, network) / scan

Where both use the same processors a scan cannot reach 1. Then the limit is the sum of their
processor time divided by the number of processors, which is printed as well.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.support.processors import processor_seconds
from benchmarks.support.pyramids import write_pyramid
from benchmarks.support.reports import about, tell
from slidescan.geometry import Box
from slidescan.protocols import Engine, calls_at_once
from slidescan.scanning import pipeline
from slidescan.scanning.options import Options
from slidescan.scanning.session import Session
from slidescan.slides.plane import Plane
from slidescan.slides.slide import Slide
from slidescan.tools.hardware import cores

SQUARE_PX = 4096


@dataclass(frozen=True, slots=True)
class Part:
    """Time of reading, of the network or of the scan."""

    seconds: float
    processor_s: float
    """Processor time of all threads."""


class Quiet:
    """Report without output except warnings; fulfils protocols.Reporter."""

    def bar(self, what: str, total: int, unit: str) -> Any:
        return nullcontext(self)

    def update(self, done: int) -> None: ...

    def say(self, line: str) -> None: ...

    def warn(self, line: str) -> None:
        click.echo(line, err=True)


def timed(work: Callable[[], object]) -> Part:
    before, started = processor_seconds(), time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    return Part(round(seconds, 3), round(processor_seconds() - before, 3))


def tiles(session: Session, plane: Plane) -> list[Box]:
    """The tiles of a scan, as boxes of scan-plane pixels."""
    grid = session.grid(plane)
    mask = session.selector().select(plane, grid).mask
    work = pipeline.plan_work(grid.cells.split(256), mask, pipeline.TILE_PX // grid.stride)
    return [grid.pixels(tile) for item in work for tile in item.tiles]


def read(plane: Plane, boxes: list[Box], threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(plane.read, boxes):
            pass


def network_alone(engine: Engine, boxes: list[Box]) -> Part:
    """Time the network on noise of each tile's shape, after one pass for warming up.

    The content of a tile does not change the time.
    """
    rng, shapes = np.random.default_rng(0), {box.shape for box in boxes}
    noise = {shape: rng.integers(0, 256, (1, *shape, 3), np.uint8) for shape in shapes}
    with ThreadPoolExecutor(calls_at_once(engine)) as pool:

        def score() -> None:
            for _ in pool.map(lambda box: engine(noise[box.shape]), boxes):
                pass

        score()
        return timed(score)


@contextmanager
def slide_or_generated(path: Path | None, squares: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        if path is None:
            path = Path(folder, "slide.tif")
            write_pyramid(path, np.ones((squares, squares), np.bool_), SQUARE_PX)
        yield path


@click.command()
@click.option("--slide", type=click.Path(path_type=Path), help="[default: a generated slide]")
@click.option("--squares", default=4, show_default=True, help="Its side, in squares of 4,096 px.")
@click.option("--model", default="default", show_default=True)
@click.option("--engine", type=click.Choice(["openvino", "torch"]))
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16", "int8"]), default="fp32")
@click.option("--threads", default=cores(), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file, e.g. limits.json.")
def main(slide: Path | None, squares: int, out: Path | None, model: str, **how: Any) -> None:
    """Measure reading, network and scan; print JSON."""
    session = Session(Options(models=(model,), **how), Quiet())
    with slide_or_generated(slide, squares) as path, tempfile.TemporaryDirectory() as folder:
        with Slide.open(path) as opened:
            boxes = tiles(session, opened.plane(session.ensemble.mpp))
        network = network_alone(session.engine, boxes)
        with Slide.open(path) as opened:
            plane = opened.plane(session.ensemble.mpp)
            reading = timed(lambda: read(plane, boxes, session.backend.threads))
        whole = timed(lambda: session.run(path, Path(folder, "map.zarr")))
    shared = (reading.processor_s + network.processor_s) / cores()
    limit = max(reading.seconds, network.seconds)
    result = {
        "tiles": len(boxes),
        "megapixels": round(sum(box.area for box in boxes) / 1e6, 1),
        "read": asdict(reading),
        "network": asdict(network),
        "scan": asdict(whole),
        "efficiency": round(limit / whole.seconds, 3),
        "efficiency_of_shared_processors": round(max(limit, shared) / whole.seconds, 3),
        "model": model,
        **how,
        **about(),
    }
    tell(result, out)


if __name__ == "__main__":
    main()
