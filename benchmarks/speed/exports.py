"""Size, time and peak memory of the exports of a large map.

    python -m benchmarks.speed.exports [--side 10000] [--only geojson ...] [--out exports.json]

Writes a made-up map straight through the store, all of whose cells are scanned, and runs each
command on it in a process of its own. 10,000 cells of 8 px are a slide of 8 cm. About 5 % of the
cells are above 0.5, in smooth areas of many sizes and as single cells.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.support.reports import about, tell
from slidescan.geometry import Grid
from slidescan.maps.store import Heatmap

STRIDE, MPP, SLIDE_MPP = 8, 0.972, 0.243
TEXTURE = 2048
"""Side of the texture that the map repeats, cells."""

EXPORTS: dict[str, tuple[str, ...]] = {
    "regions.csv": ("regions", "MAP"),
    "regions.geojson": ("export", "geojson", "MAP"),
    "tiles.geojson": ("export", "geojson", "MAP", "--tiles"),
    "hot.csv": ("export", "csv", "MAP", "--of", "cells", "--threshold", "0.5"),
    "map.ome.tif": ("export", "ome-tiff", "MAP"),
    "values.ome.tif": ("export", "ome-tiff", "MAP", "--values"),
    "map-04.zarr": ("export", "ngff04", "MAP"),
    "map.png": ("export", "png", "MAP", "--layout", "map", "--size", "10000"),
    "cells.parquet": ("export", "parquet", "MAP", "--of", "cells"),
}
"""The commands by the name of their file; `MAP` stands for the map, `--out` is added."""

RUN = """
import resource, subprocess, sys, time
started = time.perf_counter()
subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""
"""Runs a command and prints seconds, processor seconds and MB. A process starts with the peak of
the one that started it, so this one is small."""


@dataclass(frozen=True, slots=True)
class Export:
    """One command's figures."""

    file: str
    command: str
    seconds: float
    processor_s: float
    """on a busy machine the better figure"""
    peak_mb: int
    size_mb: float


def texture(seed: int = 0) -> NDArray[np.float32]:
    """Probabilities (TEXTURE, TEXTURE) whose opposite edges fit together."""
    rng = np.random.default_rng(seed)
    field = np.zeros((TEXTURE, TEXTURE))
    for sigma, weight in ((40, 1.0), (8, 0.6), (0.5, 0.25)):
        part = ndimage.gaussian_filter(rng.normal(size=field.shape), sigma, mode="wrap")
        field += weight * part / part.std()
    odds = 3 * (field - np.quantile(field, 0.95))
    return (1 / (1 + np.exp(-odds))).astype(np.float32)


def write_map(path: Path, side: int) -> None:
    """Write a map of `side` x `side` cells, all scanned."""
    values = texture()
    extent_l0 = [round(side * STRIDE * MPP / SLIDE_MPP)] * 2
    slide = {"fingerprint": "made-up", "mpp": [SLIDE_MPP] * 2, "extent_l0": extent_l0}
    with Heatmap.create(
        path,
        grid=Grid((side * STRIDE, side * STRIDE), STRIDE),
        mpp=MPP,
        mask=np.ones((side, side), np.bool_),
        settings={"slide": slide, "model": {"name": "made-up", "sha256": "ab" * 32}},
        provenance={"slide": "made-up.tif", "bounds_l0": [0, 0, *extent_l0]},
    ) as heatmap:
        for block in heatmap.blocks():
            rows, columns = (
                np.arange(a, b) % TEXTURE for a, b in ((block.y0, block.y1), (block.x0, block.x1))
            )
            heatmap.write(block, values[np.ix_(rows, columns)])
        heatmap.finish({})


def measure(map_path: Path, name: str) -> Export:
    """Run one command."""
    out = map_path.with_name(name)
    words = [str(map_path) if word == "MAP" else word for word in EXPORTS[name]]
    ran = subprocess.run(
        [sys.executable, "-c", RUN, "-m", "slidescan", *words, "--out", str(out)],
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        raise click.ClickException(f"{name}: {ran.stderr}")
    seconds, processor_s, peak = (round(float(each), 1) for each in ran.stdout.split())
    size = out.stat().st_size if out.is_file() else _folder_size(out)
    command = " ".join(EXPORTS[name])
    return Export(name, command, seconds, processor_s, round(peak), round(size / 1e6, 1))


def _folder_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@click.command(help=__doc__)
@click.option("--side", type=click.IntRange(256), default=10_000, help="Cells a side.")
@click.option("--only", type=click.Choice(list(EXPORTS)), multiple=True, help="Default: all.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON of the figures.")
def main(side: int, only: tuple[str, ...], out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        map_path = Path(folder, "map.zarr")
        write_map(map_path, side)
        size = round(_folder_size(map_path) / 1e6, 1)
        found = [asdict(measure(map_path, name)) for name in only or EXPORTS]
    tell({**about(), "cells": [side, side], "map_mb": size, "exports": found}, out)


if __name__ == "__main__":
    main()
