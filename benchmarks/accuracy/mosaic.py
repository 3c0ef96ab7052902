"""Compare a map with the patch classifier, on a slide that is put together from labelled patches.

    python -m benchmarks.accuracy.mosaic DATA [--patches 2000] [--model ...] [--tta d4]
    python -m benchmarks.accuracy.mosaic DATA --held-out --keep FOLDER

DATA has Kaggle's layout: train/<id>.tif and train_labels.csv. The patches lie losslessly on a
pyramidal slide, each where it is exactly the field of view of a cell. `slidescan heatmap` scans the
slide, `slidescan predict` scores the files. The values of those cells must equal the predictions,
and so must the AUCs. Figures are given for all patches, and apart for those that the split held
out: SHA-256(id) / 2**256 < 0.1, which is not slide-disjoint.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from benchmarks.support.reports import about, tell
from slidescan.engines.backend import TOLERANCE
from slidescan.geometry import PATCH_PX, Box, Grid
from slidescan.maps.store import Heatmap
from slidescan.models.model import load
from slidescan.patches.labelled.splits import SHARE, in_validation
from slidescan.statistics.curves import roc
from slidescan.tools.csv_tables import read_table

TILE = 256
LEVELS = (1, 4, 16)


def offset(grid: Grid) -> int:
    """The first pixel on the slide, along one axis, at which a cell's field of view begins.

    >>> offset(Grid((0, 0), 8))
    4
    """
    return grid.field.start % grid.stride


def layout(count: int, grid: Grid) -> tuple[Grid, NDArray[np.intp]]:
    """Arrange `count` patches side by side: the slide's grid and the (row, column) of each."""
    if PATCH_PX % grid.stride:
        raise click.UsageError(f"patches of {PATCH_PX} px do not lie on a stride of {grid.stride}")
    across = int(np.ceil(np.sqrt(count)))
    places = np.stack(np.divmod(np.arange(count), across), axis=1)
    first = (offset(grid) - grid.field.start) // grid.stride
    down = -(-count // across)
    extent = (offset(grid) + down * PATCH_PX, offset(grid) + across * PATCH_PX)
    return Grid(extent, grid.stride, grid.field_px), first + places * (PATCH_PX // grid.stride)


def pixels(files: Sequence[Path], grid: Grid, cells: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Draw the mosaic, (H, W, 3), white where there is no patch."""
    mosaic = np.full((*grid.extent_px, 3), 255, np.uint8)
    for file, (row, column) in zip(files, cells.tolist(), strict=True):
        with Image.open(file) as image:
            patch = np.asarray(image.convert("RGB"))
        mosaic[grid.pixels(Box(row, column, row + 1, column + 1)).slices] = patch
    return mosaic


def write_slide(path: Path, mosaic: NDArray[np.uint8], mpp: float) -> None:
    """Write a tiled, lossless TIFF with coarser levels."""
    image = Image.fromarray(mosaic)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level in LEVELS:
            tiff.write(
                np.asarray(image.reduce(level)),
                tile=(TILE, TILE),
                photometric="rgb",
                compression="deflate",
                resolution=(1e4 / mpp / level,) * 2,
                resolutionunit="CENTIMETER",
                subfiletype=int(level > 1),
                metadata=None,
            )


def slidescan(*arguments: object) -> float:
    """Run a command, and return its seconds."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "slidescan", *map(str, arguments)], check=True)
    return round(time.perf_counter() - started, 1)


def labelled(data: Path, count: int | None, held_out: bool) -> tuple[list[Path], NDArray[np.int64]]:
    """Files and labels in the order of the ids. Ids are hashes, so the first N are a random sample.

    With `held_out`, patches without tumour come first, so that the map has two halves.
    """
    rows = {row["id"]: row["label"] for _, row in read_table(data / "train_labels.csv", ("id",))}
    there = sorted(i for i in rows if i and (data / "train" / f"{i}.tif").is_file())
    ids = [i for i in there if not held_out or in_validation(i)][:count]
    if held_out:
        ids.sort(key=lambda i: str(rows[i]))
    if not ids:
        raise click.UsageError(f"{data}: no labelled patch has a file train/<id>.tif")
    return [data / "train" / f"{i}.tif" for i in ids], np.array([rows[i] for i in ids], np.int64)


def scored(path: Path) -> dict[str, float]:
    with path.open(newline="") as file:
        return {row["id"]: float(row["label"]) for row in csv.DictReader(file)}


def compared(
    labels: NDArray[np.int64], table: NDArray[np.float32], there: NDArray[np.float32]
) -> dict[str, float]:
    """Both AUCs, and the largest difference between a cell and its patch."""
    return {
        "patches": len(labels),
        "tumour": int(labels.sum()),
        "auc_of_the_map": roc(labels, there).area,
        "auc_of_the_table": roc(labels, table).area,
        "largest_difference": float(np.abs(there - table).max()),
    }


def reports(
    files: Sequence[Path],
    labels: NDArray[np.int64],
    table: NDArray[np.float32],
    there: NDArray[np.float32],
) -> Iterator[tuple[str, dict[str, float]]]:
    """Compare on all patches and on each side of the split."""
    held_out = np.array([in_validation(file.stem) for file in files])
    for name, part in (("all", held_out | True), ("validation", held_out), ("training", ~held_out)):
        if part.any():
            yield name, compared(labels[part], table[part], there[part])


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--patches", "count", type=click.IntRange(1), help="How many. [default: all]")
@click.option("--held-out", is_flag=True, help="Only held-out patches, those with tumour last.")
@click.option("--model", "models", multiple=True, default=("default",), show_default=True)
@click.option("--tta", type=click.Choice(["d4"]))
@click.option("--engine", type=click.Choice(["openvino", "torch"]), default="openvino")
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder for slide, map and tables.")
def main(
    data: Path,
    count: int | None,
    held_out: bool,
    models: tuple[str, ...],
    tta: str | None,
    keep: Path | None,
    **how: str,
) -> None:
    """Print JSON; exit with 1 if a cell differs from its patch."""
    card = load(models[0]).card
    files, labels = labelled(data, count, held_out)
    grid, cells = layout(len(files), Grid((0, 0), card.stride_px, card.field_px))
    flags = [word for model in models for word in ("--model", model)]
    flags += [word for name, value in how.items() for word in (f"--{name}", value)]
    flags += ["--tta", tta] if tta else []
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        slide, out, csv_path = (folder / name for name in ("mosaic.tif", "map.zarr", "table.csv"))
        write_slide(slide, pixels(files, grid, cells), card.mpp)
        paths = folder / "patches.txt"
        paths.write_text("".join(f"{file}\n" for file in files))
        map_s = slidescan("heatmap", slide, "--out", out, "--no-tissue-mask", *flags)
        table_s = slidescan("predict", "--list", paths, "--out", csv_path, *flags)
        if keep:
            slidescan("export", "png", out, "--slide", slide, "--out", folder / "mosaic.png")
        heatmap = Heatmap.open(out)
        assert heatmap.grid == grid
        values = heatmap.read(grid.cells)
        scores = scored(csv_path)
    there = values[cells[:, 0], cells[:, 1]]
    table = np.array([scores[file.stem] for file in files], np.float32)
    found = dict(reports(files, labels, table, there))
    result = {
        "slide_px": grid.extent_px,
        "cells": grid.cells.area,
        **found,
        "split": f"validation: SHA-256(id) / 2**256 < {SHARE:g}, not slide-disjoint",
        "heatmap_s": map_s,
        "predict_s": table_s,
        "model": " + ".join(load(model).card.name for model in models),
        "tta": tta,
        **how,
        **about(),
    }
    tell(result)
    tolerance = TOLERANCE[how["precision"]]
    if not found["all"]["largest_difference"] <= tolerance:
        raise click.ClickException(f"a cell is further than {tolerance:g} from its patch")


if __name__ == "__main__":
    main()
