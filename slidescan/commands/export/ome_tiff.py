"""`slidescan export ome-tiff`: a map for QuPath, Fiji and whatever else reads OME-TIFF."""

from __future__ import annotations

from pathlib import Path

import click

from slidescan.commands.checks import check_map, check_new, check_slide_and_map
from slidescan.commands.export.options import (
    corner_of,
    no_crop_option,
    open_map_to_export,
    slide_for_crop_option,
    target_options,
)
from slidescan.commands.options import PATH, PLACE, colours_option, ome_tiff_libraries
from slidescan.commands.terminal import bar
from slidescan.tools.urls import Place


@click.command("ome-tiff")
@click.argument("map_path", metavar="MAP", type=PLACE)
@slide_for_crop_option
@click.option(
    "--values",
    is_flag=True,
    help="Write the probabilities as float32, NaN where nothing was scanned, instead of colours.",
)
@colours_option
@no_crop_option
@target_options
@click.option("--out", type=PATH, required=True, help="The image, e.g. map.ome.tif.")
def ome_tiff(
    map_path: Place,
    slide_path: Place | None,
    values: bool,
    colour_name: str,
    no_crop: bool,
    partial: bool,
    overwrite: bool,
    out: Path,
) -> None:
    """Write the map as a pyramidal OME-TIFF, a pixel a cell, with its size and place in um.

    Colours are 8 bits, RGB, and white where nothing was scanned.

    \b
    Examples:
      slidescan export ome-tiff map.zarr --out map.ome.tif
      slidescan export ome-tiff map.zarr --slide slide.tif --values --out values.ome.tif
    """
    if slide_path:
        check_slide_and_map(slide_path, map_path)
    else:
        check_map(map_path)
    check_new(out, (".ome.tif", ".ome.tiff"), overwrite=overwrite)
    with ome_tiff_libraries():
        from slidescan.exports import ome_tiff as writer

    from slidescan.pictures.colours import colours
    from slidescan.tools.atomic_files import replacing

    heatmap = open_map_to_export(map_path, partial=partial)
    corner = corner_of(heatmap, slide_path, no_crop=no_crop)
    with replacing(out) as beside:
        writer.write(heatmap, beside, corner, None if values else colours(colour_name), bar)
    (rows, columns), um = heatmap.grid.shape, heatmap.mpp * heatmap.grid.stride
    click.echo(f"{out}: {columns} x {rows} px of {um:g} um")
    if any(corner):
        click.echo(f"x and y are those of level 0 minus {corner}, as QuPath crops the slide")
