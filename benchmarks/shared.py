"""How much sharing computation saves: one fully convolutional scan against the same cells patch
by patch. Same weights, engine, level, threads and slide; one run, one ratio.

    python benchmarks/shared.py [--engine torch] [--size 4096] [--slide SLIDE]

The patches are cut from tiles that were read once, so that the slide is not decoded again for
each: what is compared is the network's work alone, the best a patch-wise scanner can do. As a whole
slide of patches would take long, they are timed on a part of the cells and counted per cell.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from datetime import date
from pathlib import Path

import click
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from slidescan.engines import Backend, make_engine
from slidescan.geometry import Box, Grid
from slidescan.machine import cores
from slidescan.model import load
from slidescan.scan import TILE_PX, Engine, plan_work, scan
from slidescan.slide import Plane, Slide


def texture(side: int, seed: int = 0) -> NDArray[np.uint8]:
    """Something like H&E: pink stroma with purple nuclei, (side, side, 3)."""
    rng = np.random.default_rng(seed)
    stroma = gaussian_filter(rng.standard_normal((side, side), np.float32), 12)
    nuclei = gaussian_filter(rng.standard_normal((side, side), np.float32), 3)
    eosin, purple = np.array([225, 150, 190]), np.array([95, 60, 130])
    dense = (nuclei > nuclei.std()).astype(np.float32)[..., None]
    shade = 18 * (stroma / stroma.std())[..., None] + 6 * rng.standard_normal((side, side, 1))
    return np.clip(eosin * (1 - dense) + purple * dense + shade, 0, 255).astype(np.uint8)


class Memory:
    """Collects the blocks of a scan; fulfils scan's Sink."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.values = np.full(shape, np.nan, np.float32)

    def write(self, block: Box, values: NDArray[np.float32]) -> None:
        self.values[block.slices] = values


def shared(plane: Plane, grid: Grid, engine: Engine, threads: int) -> tuple[float, Memory]:
    """Seconds of the whole scan, reading included, and its map."""
    mask, sink = np.ones(grid.shape, bool), Memory(grid.shape)
    work = list(plan_work(grid.cells.split(256), mask, TILE_PX // grid.stride))
    engine(plane.read(grid.pixels(work[0].tiles[0]))[None])  # kernels are built at first use
    started = time.perf_counter()
    scan(work, grid, mask, plane, engine, sink, threads=threads)
    return time.perf_counter() - started, sink


def patchwise(
    plane: Plane, grid: Grid, engine: Engine, cells: Box, batch: int
) -> tuple[float, NDArray[np.float32]]:
    """Seconds for `cells` one patch each, the reading of their tile included, and their values."""
    stride, field = grid.stride, grid.field_px
    engine(np.zeros((batch, field, field, 3), np.uint8))
    started = time.perf_counter()
    pixels = plane.read(grid.pixels(cells))
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (field, field), axis=(0, 1))
    windows = windows[::stride, ::stride].transpose(0, 1, 3, 4, 2).reshape(-1, field, field, 3)
    values = [
        engine(np.ascontiguousarray(windows[i : i + batch]))[:, 0, 0]
        for i in tqdm(range(0, len(windows), batch), desc="patches", disable=None)
    ]
    return time.perf_counter() - started, np.concatenate(values).reshape(cells.shape)


@click.command()
@click.option("--size", default=4096, show_default=True, help="Side of the generated slide, px.")
@click.option("--slide", "slide_path", type=click.Path(path_type=Path), help="Take this slide.")
@click.option("--model", default="default", show_default=True)
@click.option("--engine", "name", type=click.Choice(["openvino", "torch"]), default="openvino")
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32")
@click.option("--threads", type=int, default=cores(), show_default=True)
@click.option("--side", default=64, show_default=True, help="Cells a side timed as patches.")
@click.option("--batch", default=64, show_default=True, help="Patches at a time.")
def main(
    size: int,
    slide_path: Path | None,
    model: str,
    name: str,
    device: str,
    precision: str,
    threads: int,
    side: int,
    batch: int,
) -> None:
    """Print one line of JSON with both times and their ratio."""
    loaded = load(model)
    engine = make_engine(loaded.network, Backend(name, device, precision, threads))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        if slide_path is None:
            slide_path = Path(folder, "texture.tif")
            per_cm = (1e4 / loaded.card.mpp,) * 2
            tifffile.imwrite(
                slide_path,
                texture(size),
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                resolution=per_cm,
                resolutionunit="CENTIMETER",
            )
        with Slide.open(slide_path) as slide:
            plane = slide.plane(loaded.card.mpp)
            grid = Grid(plane.shape_px, loaded.card.stride_px, loaded.card.field_px)
            whole_s, sink = shared(plane, grid, engine, threads)
            part = Box(0, 0, side, side).shift(8, 8).clip(grid.cells)
            part_s, values = patchwise(plane, grid, engine, part, batch)
    height, width = plane.shape_px
    per_cell = whole_s / grid.cells.area, part_s / part.area
    result = {
        "slide_px": [height, width],
        "cells": grid.cells.area,
        "stride": grid.stride,
        "engine": f"{name} {precision} {device}",
        "threads": threads,
        "shared_s": round(whole_s, 2),
        "shared_mpx_per_s": round(height * width / 1e6 / whole_s, 2),
        "patches_timed": part.area,
        "patches_per_s": round(part.area / part_s, 1),
        "patchwise_s_for_all_cells": round(per_cell[1] * grid.cells.area, 1),
        "ratio": round(per_cell[1] / per_cell[0], 1),
        "largest_difference": float(np.abs(values - sink.values[part.slices]).max()),
        "model": loaded.card.name,
        "machine": f"{platform.machine()}, {cores()} cores",
        "date": date.today().isoformat(),
    }
    click.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
