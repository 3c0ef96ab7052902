"""A dense scan against the same cells scored patch by patch, at several strides.

Both have the same weights, engine, level, threads and slide, and are timed in one run.

    python -m benchmarks.speed.shared [--engine torch] [--strides 8 ...] [--slide SLIDE] \
        [--out FOLDER]

The patches are cut from tiles that were read once, so the slide is not decoded again for each
patch: this is the best that a patch-wise scanner can do. A whole slide of patches would take long,
so they are timed on a part of the cells, and the time is scaled to all.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from benchmarks.support.reports import about, keep, markdown
from slidescan.engines.backend import Backend, Name, Precision
from slidescan.engines.build import make_engine
from slidescan.engines.ensemble import Ensemble
from slidescan.geometry import Box, Grid
from slidescan.models.model import Model, load
from slidescan.pictures import style
from slidescan.protocols import Engine
from slidescan.scanning.pipeline import TILE_PX, plan_work, scan
from slidescan.slides.plane import Plane
from slidescan.slides.slide import Slide
from slidescan.tools.hardware import cores


def texture(side: int, seed: int = 0) -> NDArray[np.uint8]:
    """Draw a texture like H&E, pink stroma with purple nuclei, (side, side, 3)."""
    rng = np.random.default_rng(seed)
    stroma = gaussian_filter(rng.standard_normal((side, side), np.float32), 12)
    nuclei = gaussian_filter(rng.standard_normal((side, side), np.float32), 3)
    eosin, purple = np.array([225, 150, 190]), np.array([95, 60, 130])
    dense = (nuclei > nuclei.std()).astype(np.float32)[..., None]
    shade = 18 * (stroma / stroma.std())[..., None] + 6 * rng.standard_normal((side, side, 1))
    colours: NDArray[np.float32] = eosin * (1 - dense) + purple * dense + shade
    return np.clip(colours, 0, 255).astype(np.uint8)


class Memory:
    """Keeps the blocks of a scan in memory; fulfils protocols.Sink."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.values = np.full(shape, np.nan, np.float32)

    def write(self, block: Box, values: NDArray[np.float32], gaps: NDArray[np.bool_]) -> None:
        self.values[block.slices] = values


def shared(plane: Plane, grid: Grid, engine: Engine, threads: int) -> tuple[float, Memory]:
    """Scan densely; seconds of the whole scan, reading included, and its map."""
    mask, sink = np.ones(grid.shape, bool), Memory(grid.shape)
    work = list(plan_work(grid.cells.split(256), mask, TILE_PX // grid.stride))
    engine(plane.read(grid.pixels(work[0].tiles[0]))[None])  # the first call builds kernels
    started = time.perf_counter()
    scan(work, grid, mask, plane, engine, sink, threads=threads)
    return time.perf_counter() - started, sink


def patchwise(
    plane: Plane, grid: Grid, engine: Engine, cells: Box, batch: int
) -> tuple[float, NDArray[np.float32]]:
    """Score `cells` from one patch each; seconds, reading their tile included, and the values."""
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


@dataclass(frozen=True, slots=True)
class Compared:
    """Figures of one stride."""

    stride: int
    cells: int
    shared_s: float
    shared_mpx_per_s: float
    patches_timed: int
    patches_per_s: float
    patchwise_s: float
    """Scaled to all cells."""
    ratio: float
    largest_difference: float


def compare(
    plane: Plane, loaded: Model, backend: Backend, stride: int, side: int, batch: int
) -> Compared:
    """Scan the plane, and score a square of `side` cells again as patches."""
    grid = Grid(plane.shape_px, stride, loaded.card.field_px)
    engine = Ensemble((loaded,)).engine(backend, stride)
    whole_s, sink = shared(plane, grid, engine, backend.threads)
    part = Box(0, 0, side, side).shift(8, 8).clip(grid.cells)
    part_s, values = patchwise(plane, grid, make_engine(loaded.network, backend), part, batch)
    patchwise_s = part_s / part.area * grid.cells.area
    return Compared(
        stride=stride,
        cells=grid.cells.area,
        shared_s=round(whole_s, 2),
        shared_mpx_per_s=round(math.prod(plane.shape_px) / 1e6 / whole_s, 2),
        patches_timed=part.area,
        patches_per_s=round(part.area / part_s, 1),
        patchwise_s=round(patchwise_s, 1),
        ratio=round(patchwise_s / whole_s, 1),
        largest_difference=float(np.abs(values - sink.values[part.slices]).max()),
    )


def draw(path: Path, rows: list[Compared], what: str) -> None:
    drawn, (panel,) = style.figure(1, 1, f"One shared pass against patches: {what}")
    panel.plot([r.stride for r in rows], [r.patchwise_s for r in rows], "o-", label="patches")
    panel.plot([r.stride for r in rows], [r.shared_s for r in rows], "o-", label="shared")
    panel.set_yscale("log")
    style.name(panel, "", "stride, px", "seconds")
    style.legend(panel)
    style.save(path, drawn)


def table(rows: list[Compared]) -> str:
    return markdown(
        ("stride", "map", "Mpx/s", "patch by patch", "ratio", "largest difference"),
        [
            (
                f"{r.stride} px",
                f"{r.shared_s} s",
                r.shared_mpx_per_s,
                f"{r.patchwise_s} s",
                f"**{r.ratio:g}**",
                f"{r.largest_difference:.1g}",
            )
            for r in rows
        ],
    )


@contextmanager
def slide_or_texture(path: Path | None, size: int, mpp: float) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        if path is None:
            path = Path(folder, "texture.tif")
            tifffile.imwrite(
                path,
                texture(size),
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                resolution=(1e4 / mpp,) * 2,
                resolutionunit="CENTIMETER",
            )
        yield path


@click.command()
@click.option("--size", default=4096, show_default=True, help="Side of the generated slide, px.")
@click.option(
    "--slide", "slide_path", type=click.Path(path_type=Path), help="A slide to use instead."
)
@click.option("--model", default="default", show_default=True)
@click.option("--strides", "taken", type=int, multiple=True, default=(8, 16, 32), show_default=True)
@click.option("--engine", type=click.Choice(["openvino", "torch"]), default="openvino")
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32")
@click.option("--threads", type=int, default=cores(), show_default=True)
@click.option(
    "--side",
    default=64,
    show_default=True,
    help="Side of the square that is timed as patches, cells.",
)
@click.option("--batch", default=64, show_default=True, help="Patches at a time.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for shared.json and .png.")
def main(
    size: int,
    slide_path: Path | None,
    model: str,
    taken: tuple[int, ...],
    engine: Name,
    device: str,
    precision: Precision,
    threads: int,
    side: int,
    batch: int,
    out: Path | None,
) -> None:
    """Compare at each stride; print a table as Markdown."""
    loaded = load(model)
    backend = Backend(engine, device, precision, threads)
    with slide_or_texture(slide_path, size, loaded.card.mpp) as path, Slide.open(path) as slide:
        plane = slide.plane(loaded.card.mpp)
        rows = [compare(plane, loaded, backend, stride, side, batch) for stride in taken]
        extent = list(plane.shape_px)
    click.echo(table(rows))
    if out:
        what = {"slide_px": extent, "model": loaded.card.name, **asdict(backend)}
        keep(out / "shared.json", {**what, **about(), "strides": [asdict(row) for row in rows]})
        draw(out / "shared.png", rows, f"{loaded.card.name}, {engine} {precision}")


if __name__ == "__main__":
    main()
