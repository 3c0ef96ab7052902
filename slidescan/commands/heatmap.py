"""`slidescan heatmap`: a slide in, a map of tumour probabilities out."""

from __future__ import annotations

import shlex
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from slidescan.commands.options import (
    PATH,
    bar,
    engine_options,
    model_option,
    mpp_option,
    open_slide,
    warn,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from slidescan.geometry import Grid
    from slidescan.record import JSON
    from slidescan.scan import Engine
    from slidescan.slide import Plane, Slide
    from slidescan.store import Heatmap

LEVEL_PX = 2048
"""Most pixels of a level, a side, that one read of the overview decodes."""


@click.command()
@click.argument("slide_path", metavar="SLIDE", type=PATH)
@click.option("--out", type=PATH, required=True, help="The map: a new folder, e.g. map.zarr.")
@model_option
@mpp_option
@engine_options
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Arithmetic of the network; below fp32 cells may differ by 0.02 from their patches.",
)
@click.option("--no-tissue-mask", is_flag=True, help="Scan everything, glass as well.")
@click.option("--overwrite", is_flag=True, help="Replace a map made with other settings.")
def command(
    slide_path: Path,
    out: Path,
    model: str,
    mpp: float | None,
    engine: Literal["openvino", "torch"] | None,
    device: str,
    threads: int | None,
    precision: Literal["fp32", "bf16", "fp16"],
    no_tissue_mask: bool,
    overwrite: bool,
) -> None:
    """Scan SLIDE and write its tumour probabilities to a zarr map (OME-NGFF 0.5).

    Stopped at any moment, the same command goes on where it was. Cells without tissue are NaN.
    """
    from slidescan.engines import choose, cores, make_engine
    from slidescan.geometry import Grid
    from slidescan.model import load
    from slidescan.scan import TILE_PX
    from slidescan.store import Heatmap

    started = time.perf_counter()
    threads = threads or cores()
    chosen = choose(engine, device, precision)
    loaded = load(model)
    card = loaded.card
    with open_slide(slide_path, mpp) as slide:
        plane = slide.plane(card.mpp)
        grid = Grid(plane.shape_px, card.stride_px, card.field_px)
        mask = select_cells(slide, plane, grid, threads, tissue=not no_tissue_mask)
        if not mask.any():
            warn(f"{slide_path}: no tissue found, the map is empty; --no-tissue-mask scans anyway")
        # All that determines a value; a map made with anything else is not continued.
        settings: dict[str, JSON] = {
            "slide": {
                "fingerprint": slide.fingerprint,
                "mpp": slide.mpp,
                "extent_l0": slide.extent_l0,
            },
            "model": {"name": card.name, "sha256": card.weights_sha256},
            "engine": chosen,
            "device": device.partition(":")[0],
            "precision": precision,
            "tile_px": TILE_PX,
            "tissue_mask": not no_tissue_mask,
        }
        with Heatmap.resume_or_create(
            out,
            grid=grid,
            mpp=card.mpp,
            mask=mask,
            settings=settings,
            provenance=provenance(plane),
            overwrite=overwrite,
        ) as heatmap:
            if heatmap.complete:
                click.echo(f"{out}: complete already, nothing to do")
                return
            infer = make_engine(loaded.network, chosen, device, precision, threads)
            scanned_mpx = fill(heatmap, plane, infer, threads)
            seconds = round(time.perf_counter() - started, 3)
            heatmap.finish({"seconds": seconds, "megapixels": scanned_mpx})
    height, width = grid.shape
    click.echo(
        f"{out}: {height} x {width} cells of {grid.stride * card.mpp:.3f} um, "
        f"{int(mask.sum())} scanned, {scanned_mpx:.1f} Mpx in {seconds:.1f} s"
    )


def fill(heatmap: Heatmap, plane: Plane, engine: Engine, threads: int) -> float:
    """Scan the blocks that a map still lacks; returns their scan-plane megapixels."""
    from slidescan.errors import SlideError
    from slidescan.scan import TILE_PX, plan_work, scan

    grid, mask = heatmap.grid, heatmap.mask
    cell_mpx = grid.stride**2 / 1e6
    work = list(plan_work(heatmap.missing(), mask, TILE_PX // grid.stride))
    total = sum(bool(mask[block.slices].any()) for block in heatmap.blocks())
    if len(work) < total:
        click.echo(f"{heatmap.path}: going on, {total - len(work)} of {total} blocks are there")
    tiles_mpx = sum(tile.area for item in work for tile in item.tiles) * cell_mpx
    with bar("scanning", tiles_mpx, "Mpx") as progress:
        try:
            scan(
                work,
                grid,
                mask,
                plane,
                engine,
                heatmap,
                threads=threads,
                on_tile=lambda tile: progress.update(tile.area * cell_mpx),
            )
        except SlideError as error:
            left = sum(1 for _ in heatmap.missing())
            raise SlideError(
                f"{error}; {total - left} of {total} blocks are in {heatmap.path}, and the same "
                "command on a sound copy goes on from there"
            ) from error
    return tiles_mpx


def select_cells(
    slide: Slide, plane: Plane, grid: Grid, threads: int, *, tissue: bool
) -> NDArray[np.bool_]:
    """The cells to scan: those inside the slide's bounds that see tissue, or all of them.

    The overview is read on the heatmap's own grid, one pixel a cell.
    """
    import numpy as np

    from slidescan.geometry import Box
    from slidescan.scan import assemble
    from slidescan.tissue import grow, tissue_mask

    stride, bounds = grid.stride, plane.bounds
    mask = np.zeros(grid.shape, bool)
    inside = Box(
        bounds.y0 // stride, bounds.x0 // stride, -(-bounds.y1 // stride), -(-bounds.x1 // stride)
    ).clip(grid.cells)
    if not tissue:
        mask[inside.slices] = True
        return mask
    overview = slide.plane(plane.mpp * stride)
    side = max(16, int(LEVEL_PX / max(overview.ratio)))
    with bar("finding tissue", inside.area * stride**2 / 1e6, "Mpx") as progress:
        rgb = assemble(
            overview,
            inside,
            side,
            threads,
            lambda part: progress.update(part.area * stride**2 / 1e6),
        )
    found = tissue_mask(rgb, um_per_px=plane.mpp * stride)
    # Every cell whose field of view touches tissue.
    mask[inside.slices] = grow(found, -(-(grid.field_px - stride) // (2 * stride)))
    return mask


def provenance(plane: Plane) -> dict[str, JSON]:
    """What else is worth knowing of a map: where from, how, and by which versions."""
    from importlib.metadata import version

    names = ("slidescan", "torch", "openvino", "numpy", "zarr", "openslide-python", "openslide-bin")
    return {
        "slide": plane.slide.path.name,
        "level": plane.level,
        "command": shlex.join(["slidescan", *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in names},
    }
