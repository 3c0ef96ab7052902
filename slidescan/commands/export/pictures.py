"""`slidescan export png`: the slide with its map as a picture."""

from __future__ import annotations

from pathlib import Path

import click

from slidescan.commands.checks import check_slide_and_map
from slidescan.commands.options import PATH
from slidescan.commands.terminal import bar, open_slide_of


@click.command("png")
@click.argument("map_path", metavar="MAP", type=PATH)
@click.option("--slide", "slide_path", type=PATH, required=True, help="The slide of the map.")
@click.option(
    "--size",
    type=click.IntRange(64),
    default=1600,
    show_default=True,
    help="Longest side of the slide in the picture, px.",
)
@click.option("--out", type=PATH, required=True, help="The picture, e.g. map.png.")
def png(map_path: Path, slide_path: Path, out: Path, size: int) -> None:
    """Draw the slide, and beside it the slide under its map, with scale bar and key.

    \b
    Examples:
      slidescan export png map.zarr --slide slide.tif --out map.png
      slidescan export png map.zarr --slide slide.tif --size 800 --out small.png
    """
    check_slide_and_map(slide_path, map_path)

    from slidescan.errors import WriteError
    from slidescan.tools.atomic_files import check_folder

    if out.suffix.lower() != ".png":
        raise WriteError(f"{out}: the picture is a PNG; name it so, e.g. --out {out.stem}.png")
    check_folder(out)

    from slidescan.api.maps import open_map
    from slidescan.geometry import Box
    from slidescan.pictures.overlay import picture, spread
    from slidescan.slides.overview import read_whole
    from slidescan.tools.atomic_files import replacing
    from slidescan.tools.hardware import cores

    heatmap = open_map(map_path).heatmap
    with open_slide_of(heatmap, slide_path) as slide:
        # No finer than the scan, however small the slide.
        um_per_px = heatmap.mpp * max(1.0, max(heatmap.grid.extent_px) / size)
        plane = slide.plane(um_per_px)
        # The scanned part of the slide: MIRAX slides are mostly empty outside of it.
        part = plane.bounds.clip(Box(0, 0, *plane.shape_px))
        rgb = read_whole(plane, part, "drawing", cores(), bar)
    # The coarsest level that still has a cell for every pixel.
    cell_um = heatmap.mpp * heatmap.grid.stride
    level = 0
    while level + 1 < len(heatmap.shapes) and cell_um * 2 <= um_per_px:
        level, cell_um = level + 1, cell_um * 2
    values = heatmap.read(Box(0, 0, *heatmap.shapes[level]), level)
    shown = spread(values, part, um_per_px / cell_um)
    title = f"{slide_path.name}   model {heatmap.settings['model']['name']}   research use only"
    with replacing(out) as beside:
        picture(rgb, shown, um_per_px, title).save(beside, format="PNG")
    click.echo(f"{out}: {part.shape[1]} x {part.shape[0]} px at {um_per_px:.3g} um/px")
