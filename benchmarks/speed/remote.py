"""What a map in an object store costs: requests by kind, bytes, and time beside a local map.

    python -m benchmarks.speed.remote SLIDE [--model fast] [--delay-ms 30] [--repeats 3]

Starts an S3 server of its own (moto) on loopback, behind a proxy that counts requests and delays
each by `--delay-ms`, which stands for the distance to a store. Scans the slide to a local map and
to one in the store, in turn, with one engine that is warm; then resumes both, which finds nothing
to do, and opens and reads both. The map of the slide has to be equal in both places. The server
and the proxy are Python and run on the same processors, so the ratio is an upper bound.
"""

from __future__ import annotations

import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.support.reports import about, tell
from slidescan.api.maps import open_map
from slidescan.api.progress import Calls
from slidescan.scanning.options import Options
from slidescan.scanning.session import Session
from slidescan.slides.staging import Stage
from slidescan.tools.objects.store import bucket_of
from slidescan.tools.urls import Place, Url, place_of
from tests.support.s3 import BUCKET, Proxy, environment, proxied, s3_server

KINDS = {
    "lease": r"\.lock|\.lease",
    "shards of the values": r"\.zarr/\d+/c/",
    "shards of tissue and gaps": r"\.zarr/labels/.*/c/",
    "metadata": r"zarr\.json",
}


def counted(proxy: Proxy) -> dict[str, Any]:
    """The requests since the last reset, by method and object, and the bytes of their bodies."""
    table: dict[str, int] = {}
    for request in proxy.requests:
        found = (kind for kind, pattern in KINDS.items() if re.search(pattern, request.path))
        kind = "list" if "list-type" in request.path else next(found, "other")
        name = f"{request.method} {kind}"
        table[name] = table.get(name, 0) + 1
    return {
        "requests": len(proxy.requests),
        "by_kind": dict(sorted(table.items())),
        "sent_bytes": proxy.sent,
        "received_bytes": proxy.received,
    }


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def compare(
    proxy: Proxy, repeats: int, action: Callable[[Place, int], object], places: tuple[Place, Place]
) -> dict[str, Any]:
    """Do the same at the local and at the remote place, in turn."""
    local, remote = [], []
    counts: dict[str, Any] = {}
    for number in range(repeats):
        local.append(timed(lambda n=number: action(places[0], n)))
        proxy.reset()
        remote.append(timed(lambda n=number: action(places[1], n)))
        counts = counted(proxy)
    medians = statistics.median(local), statistics.median(remote)
    return {
        "local_s": [round(each, 3) for each in local],
        "remote_s": [round(each, 3) for each in remote],
        "ratio": round(medians[1] / medians[0], 3),
        **counts,
    }


@click.command()
@click.argument("slide", type=click.Path(exists=True, path_type=Path))
@click.option("--model", default="fast", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--delay-ms", type=click.FloatRange(0), default=30.0, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures as JSON as well.")
def main(
    slide: Path, model: str, threads: int, delay_ms: float, repeats: int, out: Path | None
) -> None:
    """Measure what a map in an object store costs beside a local one."""
    with (
        tempfile.TemporaryDirectory() as folder,
        s3_server() as port,
        proxied(port) as proxy,
    ):
        os.environ.update(environment(proxy.port))
        proxy.delay_s = delay_ms / 1000
        places = Path(folder), place_of(f"s3://{BUCKET}/maps")
        session = Session(Options((model,), threads=threads), Calls(None))
        session.run(slide, Path(folder, "warm.zarr"))
        fresh = compare(proxy, repeats, lambda at, n: session.run(slide, at / f"{n}.zarr"), places)
        again = compare(proxy, repeats, lambda at, n: session.run(slide, at / f"{n}.zarr"), places)
        read = compare(proxy, repeats, lambda at, n: open_map(at / f"{n}.zarr").values, places)
        here, there = (open_map(at / "0.zarr") for at in places)
        if not np.array_equal(here.values, there.values, equal_nan=True):
            raise click.ClickException("the maps differ")
        shards = sum(1 for _ in here.heatmap.blocks())
        tell(
            {
                **about(),
                "slide": slide.name,
                "slide_bytes": slide.stat().st_size,
                "cells": list(here.shape),
                "blocks": shards,
                "delay_ms": delay_ms,
                "scan": fresh,
                "nothing_to_do": again,
                "open_and_read": read,
                "fetch_the_slide": fetch(proxy, slide, Path(folder, "cache")),
            },
            out,
        )


def fetch(proxy: Proxy, slide: Path, folder: Path) -> dict[str, Any]:
    """Fetch the slide from the store into an empty folder."""
    url = place_of(f"s3://{BUCKET}/in/{slide.name}")
    assert isinstance(url, Url)
    bucket_of(url).put(url.path, slide.read_bytes())
    proxy.reset()

    def once() -> None:
        with Stage(folder, 1000).local(url):
            pass

    return {"seconds": round(timed(once), 3), **counted(proxy)}


if __name__ == "__main__":
    main()
