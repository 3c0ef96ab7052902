"""`slidescan verify`: does a map equal the patch classifier?"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from slidescan.commands.options import (
    PATH,
    bar,
    engine_options,
    model_option,
    open_map,
    open_slide_of,
)


@click.command()
@click.argument("slide_path", metavar="SLIDE", type=PATH)
@click.argument("map_path", metavar="MAP", type=PATH)
@click.option("--cells", type=click.IntRange(1), default=256, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Which cells are drawn.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    help="Largest difference allowed. [default: 1e-5 in fp32, 0.02 below]",
)
@model_option
@engine_options
def command(
    slide_path: Path,
    map_path: Path,
    cells: int,
    seed: int,
    tolerance: float | None,
    model: str,
    engine: Literal["openvino", "torch"] | None,
    device: str,
    threads: int | None,
) -> None:
    """Read random cells of MAP again from SLIDE as 96 x 96 px patches, score each alone, compare.

    Exit code 1 if any differs by more than the tolerance. Takes the engine that made the map
    unless told otherwise.
    """
    import numpy as np

    from slidescan.engines import TOLERANCE, choose, cores, make_engine
    from slidescan.errors import MapError
    from slidescan.geometry import Box
    from slidescan.model import load
    from slidescan.scan import score_patches

    heatmap = open_map(map_path)
    settings, grid = heatmap.settings, heatmap.grid
    loaded = load(model)
    if loaded.card.weights_sha256 != settings["model"]["sha256"]:
        raise MapError(
            f"{map_path}: made with the model {settings['model']['name']} of SHA-256 "
            f"{settings['model']['sha256'][:12]}..., {model} has "
            f"{loaded.card.weights_sha256[:12]}...; name the right one with --model"
        )
    tolerance = TOLERANCE[settings["precision"]] if tolerance is None else tolerance
    choice = np.flatnonzero(heatmap.mask)
    if not len(choice):
        click.echo(f"{map_path}: no cell was scanned, nothing to compare")
        return
    drawn = np.random.default_rng(seed).choice(choice, min(cells, len(choice)), replace=False)
    rows, columns = (n.tolist() for n in np.unravel_index(np.sort(drawn), grid.shape))
    boxes = [Box(r, c, r + 1, c + 1) for r, c in zip(rows, columns, strict=True)]
    precision = settings["precision"]
    chosen = engine or (settings["engine"] if device == settings["device"] else None)
    infer = make_engine(
        loaded.network,
        choose(chosen, device, precision),
        device,
        precision,
        threads or cores(),
    )
    with open_slide_of(heatmap, slide_path) as slide:
        plane = slide.plane(heatmap.mpp)
        there = np.array([heatmap.read(box)[0, 0] for box in boxes])
        here = np.empty_like(there)
        with bar("verifying", len(boxes), "cell") as progress:
            for i, p in enumerate(score_patches(boxes, grid, plane, infer)):
                here[i] = p
                progress.update()
    off = np.abs(there - here)
    worst = int(off.argmax())
    line = (
        f"{map_path}: {len(boxes)} cells scored as patches, largest difference {off[worst]:.2g} "
        f"at cell ({boxes[worst].y0}, {boxes[worst].x0}), tolerance {tolerance:g}"
    )
    if not off[worst] <= tolerance:
        raise MapError(f"{line}: the map does NOT equal the patch classifier")
    click.echo(line)
