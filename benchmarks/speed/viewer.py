"""How quickly `slidescan view` answers: the first picture, tiles, memory, and a scan beside it.

    python -m benchmarks.speed.viewer [SLIDE] [--tiles 400] [--side 102400] [--scanned 49152]

Without SLIDE the first picture is that of the slide of `make demo`. The server runs in a process of
its own, as a user starts it. Clients ask over loopback, each on one connection, as a browser does.

- first picture: from the start of the command until the coarsest tile has arrived, and until all
  tiles of a window of 1600 x 1000 px have.
- tiles: random ones of every zoom level of a made-up slide of `--side` px, without and with 32
  clients at once. The same tile is never asked for twice, so no cache helps.
- memory: the server's peak before and after this panning.
- a scan: `slidescan heatmap` of a part of the slide, alone and with a viewer that follows the map
  and pans, in turn.

Processor times stand beside the seconds: they say what is left to gain where the machine does other
work as well, which `load` tells.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.speed.start import DEMO
from benchmarks.support.pyramids import TILE, write_pyramid
from benchmarks.support.reports import about, tell

WINDOW_PX = (1000, 1600)
"""The browser's window, (height, width)."""

CLIENTS = 32


@dataclass(frozen=True, slots=True)
class Server:
    """A viewer in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    started: float

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)

    def processor_s(self) -> float:
        """Processor time so far (Linux)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self, what: str) -> float:
        """VmRSS or VmHWM, the peak (Linux)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{what}:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else float("nan")


@contextmanager
def viewing(*paths: Path) -> Iterator[Server]:
    """Start `slidescan view` and wait for its link."""
    command = [sys.executable, "-m", "slidescan", "view", *map(str, paths), "--no-browser"]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout
    try:
        link = re.match(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
        if not link:
            raise click.ClickException(f"{' '.join(command)}: printed no link")
        yield Server(process, int(link[1]), started)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def ask(client: http.client.HTTPConnection, address: str) -> bytes:
    client.request("GET", address)
    answer = client.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise click.ClickException(f"{address}: {answer.status} {content[:200]!r}")
    return content


def describe(client: http.client.HTTPConnection) -> dict[str, Any]:
    (slide,) = json.loads(ask(client, "/api/slides"))["slides"]
    found: dict[str, Any] = json.loads(ask(client, f"/api/slides/{slide['id']}"))
    return found


def grid(slide: dict[str, Any], level: int) -> tuple[int, int]:
    """Columns and rows of the tiles of a level."""
    size = slide["levels"][level]
    return -(-size["width"] // slide["tile_px"]), -(-size["height"] // slide["tile_px"])


def first_picture(path: Path, rounds: int) -> dict[str, Any]:
    """Seconds from the command to the first tile and to a full window; medians of several runs."""
    times = np.array([_first_picture(path) for _ in range(rounds)])
    names = ("link_s", "first_tile_s", "window_s", "processor_s")
    return {
        "slide": path.name,
        **dict(zip(names, np.median(times, axis=0).round(3).tolist(), strict=True)),
        "fastest_window_s": round(float(times[:, 2].min()), 3),
    }


def _first_picture(path: Path) -> tuple[float, float, float, float]:
    with viewing(path) as server, closing(server.connect()) as client:
        link = time.perf_counter() - server.started
        slide = describe(client)
        tiles = f"/api/slides/{slide['id']}/tiles"
        ask(client, f"{tiles}/0/0_0.jpg")
        first = time.perf_counter() - server.started
        # The coarsest level that fills the window, as OpenSeadragon chooses it.
        sizes = [(each["height"], each["width"]) for each in slide["levels"]]
        level = next(
            (i for i, (h, w) in enumerate(sizes) if h >= WINDOW_PX[0] or w >= WINDOW_PX[1]),
            len(sizes) - 1,
        )
        columns, rows = grid(slide, level)
        for row in range(rows):
            for column in range(columns):
                ask(client, f"{tiles}/{level}/{column}_{row}.jpg")
        window = time.perf_counter() - server.started
        return link, first, window, server.processor_s()


def choose(slide: dict[str, Any], count: int, seed: int) -> list[str]:
    """Addresses of different tiles, spread over the levels that have many."""
    rng = np.random.default_rng(seed)
    levels = [n for n in range(len(slide["levels"])) if np.prod(grid(slide, n)) >= count // 4]
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        level = int(rng.choice(levels))
        column, row = (int(rng.integers(n)) for n in grid(slide, level))
        chosen[f"/api/slides/{slide['id']}/tiles/{level}/{column}_{row}.jpg"] = None
    return list(chosen)


def latencies(server: Server, addresses: Sequence[str], clients: int) -> dict[str, Any]:
    """Milliseconds of each tile, asked for by several clients at once."""
    parts = [addresses[i::clients] for i in range(clients)]

    def pan(part: Sequence[str]) -> list[float]:
        with closing(server.connect()) as client:
            took = []
            for address in part:
                before = time.perf_counter()
                ask(client, address)
                took.append(1000 * (time.perf_counter() - before))
            return took

    used, before = server.processor_s(), time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        took = sorted(each for part in pool.map(pan, parts) for each in part)
    seconds = time.perf_counter() - before
    return {
        "clients": clients,
        "tiles": len(took),
        "median_ms": round(statistics.median(took), 1),
        "p99_ms": round(float(np.percentile(took, 99)), 1),
        "largest_ms": round(took[-1], 1),
        "tiles_per_s": round(len(took) / seconds, 1),
        "processor_ms_per_tile": round(1000 * (server.processor_s() - used) / len(took), 1),
    }


def panning(path: Path, count: int) -> dict[str, Any]:
    """Latencies alone and with many clients, and the server's memory."""
    with viewing(path) as server:
        with closing(server.connect()) as client:
            slide = describe(client)
            ask(client, f"/api/slides/{slide['id']}/tiles/0/0_0.jpg")
        memory = {"before_mb": round(server.memory_mb("VmRSS"), 1)}
        addresses = choose(slide, 6 * count, seed=0)
        alone = latencies(server, addresses[:count], 1)
        memory["after_one_client_mb"] = round(server.memory_mb("VmHWM"), 1)
        together = latencies(server, addresses[count:], CLIENTS)
        memory["peak_mb"] = round(server.memory_mb("VmHWM"), 1)
    return {"alone": alone, "together": together, "memory": memory}


def scan(path: Path, folder: Path, followed: bool) -> tuple[float, float]:
    """Seconds and processor seconds of a scan, with or without a viewer that follows its map."""
    with tempfile.TemporaryDirectory(dir=folder) as where:
        out = Path(where, "map.zarr")
        command = [sys.executable, "-m", "slidescan", "heatmap", str(path), "--model", "fast"]
        used, started = _processor_s(), time.perf_counter()
        scanning = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL)
        stop = threading.Event()
        follower = threading.Thread(target=follow, args=(path, out, stop))
        if followed:
            follower.start()
        if scanning.wait():
            raise click.ClickException("slidescan heatmap failed")
        seconds = time.perf_counter() - started
        stop.set()
        if followed:
            follower.join()
        return seconds, _processor_s() - used


def follow(path: Path, out: Path, stop: threading.Event) -> None:
    """Do as a page does: wait for new blocks, fetch the map's tiles, and pan a little."""
    while not (out / "zarr.json").exists() and not stop.wait(0.1):
        pass
    if stop.is_set():
        return
    with viewing(path, out) as server, closing(server.connect()) as client:
        slide = describe(client)
        address = f"/api/maps/{slide['maps'][0]['id']}"
        pictures = iter(choose(slide, 200, seed=1))
        seen = 0
        while not stop.wait(1.0):
            ask(client, next(pictures))
            version = json.loads(ask(client, address))["version"]
            if version != seen:
                seen = version
                coarsest = len(json.loads(ask(client, address))["levels"]) - 1
                ask(client, f"{address}/tiles/{coarsest}/0_0")
                ask(client, f"{address}/histogram")


def beside(path: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """A scan alone and with a viewer, in turn."""
    scan(path, folder, followed=False)  # fills the cache of compiled networks
    pairs = [[scan(path, folder, followed) for followed in (False, True)] for _ in range(rounds)]
    seconds, used = np.moveaxis(np.array(pairs), -1, 0)  # (rounds, without and with) each
    return {
        "alone_s": seconds[:, 0].round(2).tolist(),
        "with_viewer_s": seconds[:, 1].round(2).tolist(),
        "median_ratio": round(float(np.median(seconds[:, 1] / seconds[:, 0])), 3),
        "alone_processor_s": used[:, 0].round(2).tolist(),
        "with_viewer_processor_s": used[:, 1].round(2).tolist(),
        "median_ratio_processor": round(float(np.median(used[:, 1] / used[:, 0])), 3),
    }


def _processor_s() -> float:
    """Of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def make(path: Path, side: int) -> None:
    """A slide of `side` px whose middle is tissue."""
    cells = side // (8 * TILE)
    tissue = np.zeros((cells, cells), np.bool_)
    tissue[cells // 6 : -(cells // 6) or None, cells // 6 : -(cells // 6) or None] = True
    write_pyramid(path, tissue, 8 * TILE)


@click.command()
@click.argument("slide", type=click.Path(exists=True, path_type=Path), default=DEMO)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--tiles", type=click.IntRange(10), default=400, show_default=True)
@click.option("--side", type=click.IntRange(16 * TILE), default=102_400, show_default=True)
@click.option(
    "--scanned",
    type=click.IntRange(0),
    default=96 * TILE,
    show_default=True,
    help="Side of the slide that is scanned with a viewer beside it, px; 0 leaves this out.",
)
def main(slide: Path, rounds: int, tiles: int, side: int, scanned: int) -> None:
    """Print the figures as JSON."""
    result: dict[str, Any] = {"load": os.getloadavg()[0]}
    result["first_picture"] = first_picture(slide.resolve(), rounds)
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder, "large.tif"), Path(folder, "small.tif")
        make(large, side)
        result["panning"] = {"side_px": side, **panning(large, tiles)}
        if scanned:
            make(small, scanned)
            result["scan"] = beside(small, Path(folder), rounds)
    tell(result | {"load_after": os.getloadavg()[0]} | about())


if __name__ == "__main__":
    main()
