"""What a cluster adds to a scan, and a forecast for up to 1,000 workers and 100,000 slides.

    python -m benchmarks.speed.cluster [--model fast] [--slides 2] [--rounds 1] [--out FILE]

Needs the extra cluster. Scans generated slides (JPEG, 40x, all tissue) with one worker of one
thread and with two, and once by a session in this process. The scheduler and the client are in this
process, so its processor seconds are theirs. Tasks that do nothing show the cost of a task alone.

On a machine that others use the seconds mean little. Compared are processor seconds, and the share
of the time for which workers had a task: the speed-up of two workers on two free cores is twice the
ratio of the shares, by the ratio of processor seconds.

The forecast (`benchmarks/support/cluster_model.py`) takes these costs and what is assumed of a
site: its storage, its prices, its slides and its GPU, all of which are options.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
from distributed import get_task_stream

from benchmarks.support.cluster_model import Costs, forecast
from benchmarks.support.processors import processor_seconds
from benchmarks.support.pyramids import write_pyramid
from benchmarks.support.reports import about, markdown, tell
from slidescan.api.progress import Calls
from slidescan.scanning.cluster.connection import Cluster, Tasks
from slidescan.scanning.cluster.scanner import ClusterScanner, cluster_scanner
from slidescan.scanning.cluster.tasks import TASK_PX
from slidescan.scanning.options import Options
from slidescan.scanning.session import Session

CELL_PX = 4096
SIDE = 8
"""Cells of a slide's side: 67 megapixels of the scan plane, four tasks."""
EMPTY_TASKS = 1000
QUIET = Calls(None)


@dataclass(frozen=True, slots=True)
class Scan:
    """Slides scanned by some workers, the first of which only warmed them up."""

    megapixels: float
    seconds: float
    workers_cpu_s: float
    head_cpu_s: float
    busy: float
    """the share of the time for which workers had a task"""


@dataclass(frozen=True, slots=True)
class Own:
    """Processor seconds of a scan without a cluster."""

    a_megapixel_more: float
    a_slide: float
    """besides: to open it, find its tissue and write its levels"""
    a_megapixel: float
    """all of a large slide by its megapixels"""


def nothing() -> None:
    """A task that does nothing."""


def scanned(paths: Sequence[Path], folder: Path, workers: int, options: Options) -> Scan:
    """Scan the slides in turn by `workers` workers of one thread."""
    with cluster_scanner(
        "local", workers, replace(options, threads=workers), QUIET, "", folder
    ) as scanner:
        client = scanner.cluster.client
        _run(scanner, paths[:1], folder / f"warm-{workers}")
        before = sum(client.run(processor_seconds).values())
        head, started = time.process_time(), time.perf_counter()
        with get_task_stream(client=client) as stream:
            megapixels = _run(scanner, paths, folder / f"by-{workers}")
        seconds, head = time.perf_counter() - started, time.process_time() - head
        cpu_s = sum(client.run(processor_seconds).values()) - before
    worked = [
        (each["start"], each["stop"])
        for task in stream.data
        for each in task["startstops"]
        if each["action"] == "compute" and "scan_blocks" in task["key"]
    ]
    spent = sum(stop - start for start, stop in worked)
    elapsed = max(stop for _, stop in worked) - min(start for start, _ in worked)
    return Scan(megapixels, seconds, cpu_s, head, spent / elapsed / workers)


def _run(scanner: ClusterScanner | Session, paths: Sequence[Path], folder: Path) -> float:
    folder.mkdir()
    return sum(scanner.run(path, folder / f"{path.stem}.zarr").megapixels for path in paths)


def alone(large: Sequence[Path], small: Path, folder: Path, options: Options) -> Own:
    """Scan by a session in this process, with one thread."""
    session = Session(options, QUIET)
    _run(session, large[:1], folder / "warm-alone")
    marks, megapixels = [processor_seconds()], []
    for name, paths in (("large", large), ("small", [small])):
        megapixels.append(_run(session, paths, folder / name) / len(paths))
        marks.append(processor_seconds())
    seconds = (marks[1] - marks[0]) / len(large), marks[2] - marks[1]
    a_megapixel = (seconds[0] - seconds[1]) / (megapixels[0] - megapixels[1])
    return Own(a_megapixel, seconds[1] - megapixels[1] * a_megapixel, seconds[0] / megapixels[0])


def empty_tasks(cluster: Cluster) -> tuple[float, float]:
    """Processor seconds of head and of worker for a task that does nothing."""
    client = cluster.client
    before, head = sum(client.run(processor_seconds).values()), time.process_time()
    tasks = Tasks(cluster)
    for _ in range(EMPTY_TASKS):
        cluster.slots.take(cluster.check)
        tasks.submit(nothing, on_end=cluster.slots.give)
        for _ in tasks.ready():
            pass
    while len(tasks):
        tasks.next(cluster.check)
    head = time.process_time() - head
    worker = sum(client.run(processor_seconds).values()) - before
    return head / EMPTY_TASKS, worker / EMPTY_TASKS


def start_up(options: Options, folder: Path) -> tuple[float, float]:
    """Seconds and processor seconds from the start of a worker until it knows the model."""
    started = time.perf_counter()
    with cluster_scanner("local", 1, options, QUIET, "", folder) as scanner:
        seconds = time.perf_counter() - started
        cpu_s = sum(scanner.cluster.client.run(processor_seconds).values())
    return seconds, cpu_s


def table(costs: Costs, gpu: Costs) -> str:
    """The forecasts as Markdown."""
    rows = []
    for slides in (1, 100, 10_000, 100_000):
        for workers in (1, 10, 100, 1000):
            found = forecast(costs, workers, slides)
            rows.append(
                (
                    f"{slides:,}",
                    f"{workers:,}",
                    f"{found.hours:,.3g}",
                    found.waits_for,
                    f"{found.core_s_a_slide:,.3g}",
                    f"{found.euro_a_slide:.2g}",
                )
            )
    header = ("slides", "workers", "hours", "waits for", "core-s a slide", "euro a slide")
    one = forecast(gpu, 1, 10_000)
    told = f"one GPU: {one.core_s_a_slide:.3g} GPU-s, {one.euro_a_slide:.2g} euro a slide"
    return f"{markdown(header, rows)}\n\n{told}, waits for {one.waits_for}"


@click.command()
@click.option("--model", default="fast", show_default=True)
@click.option("--slides", type=click.IntRange(1), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True)
@click.option("--megapixels", default=180.0, show_default=True, help="Of tissue, a slide.")
@click.option("--mb-a-megapixel", default=2.4, show_default=True, help="Of the file, read.")
@click.option("--mb-a-second", default=1000.0, show_default=True, help="Of the storage.")
@click.option("--core-euro", default=0.04, show_default=True, help="An hour of a core.")
@click.option("--gpu-euro", default=2.5, show_default=True, help="An hour of a GPU.")
@click.option("--gpu-mpx-s", default=400.0, show_default=True, help="Assumed, not measured.")
@click.option("--out", type=click.Path(path_type=Path))
def main(
    model: str, slides: int, rounds: int, megapixels: float, mb_a_megapixel: float,
    mb_a_second: float, core_euro: float, gpu_euro: float, gpu_mpx_s: float, out: Path | None,
) -> None:  # fmt: skip
    """Measure, and print figures as JSON and the forecast as a table."""
    options = Options(models=(model,), threads=1, tissue_mask=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [folder / f"slide-{i}.tif" for i in range(slides)]
        for path in paths:
            write_pyramid(path, np.ones((SIDE, SIDE), np.bool_), CELL_PX)
        start_s, start_cpu_s = start_up(options, folder)
        pairs = []
        for number in range(rounds):
            (here := folder / f"round-{number}").mkdir()
            pairs.append([scanned(paths, here, workers, options) for workers in (1, 2)])
        write_pyramid(small := folder / "small.tif", np.ones((1, 1), np.bool_), CELL_PX)
        own = alone(paths, small, folder, options)
        with cluster_scanner("local", 2, options, QUIET, "", folder) as scanner:
            head_s, worker_s = empty_tasks(scanner.cluster)
    task_mpx = TASK_PX / 1e6
    ones, twos = zip(*pairs, strict=True)
    a_megapixel = statistics.median(each.workers_cpu_s / each.megapixels for each in ones)
    costs = Costs(
        s_a_megapixel=own.a_megapixel_more,
        slide_s=own.a_slide,
        start_s=start_cpu_s,
        head_s_a_task=head_s,
        head_s_a_slide=5 * head_s,  # is_finished, prepare, finish, describe; lease and manifest
        task_megapixels=task_mpx,
        megapixels=megapixels,
        mb_a_megapixel=mb_a_megapixel,
        mb_a_second=mb_a_second,
        euro_an_hour=core_euro,
    )
    gpu = replace(costs, s_a_megapixel=1 / gpu_mpx_s, euro_an_hour=gpu_euro)
    tell(
        {
            "model": model,
            "task_megapixels": task_mpx,
            "start_s": start_s,
            "start_cpu_s": start_cpu_s,
            "alone_cpu_s": asdict(own),
            "one_worker_cpu_s_a_megapixel": a_megapixel,
            "head_cpu_s_an_empty_task": head_s,
            "worker_cpu_s_an_empty_task": worker_s,
            "overhead_of_a_task": (head_s + worker_s) / (own.a_megapixel_more * task_mpx),
            "head_cpu_share_of_a_scan": [s.head_cpu_s / s.workers_cpu_s for s in ones],
            "speed_up_on_free_cores": [
                2 * two.busy / one.busy * (one.workers_cpu_s / two.workers_cpu_s)
                for one, two in pairs
            ],
            "speed_up_by_the_clock": [one.seconds / two.seconds for one, two in pairs],
            "one_worker": [asdict(each) for each in ones],
            "two_workers": [asdict(each) for each in twos],
            "load": os.getloadavg()[0],
            **about(),
        },
        out,
    )
    click.echo(table(costs, gpu))


if __name__ == "__main__":
    main()
