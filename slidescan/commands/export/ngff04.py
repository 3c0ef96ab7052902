"""`slidescan export ngff04`: a map in the older version of its format."""

from __future__ import annotations

from pathlib import Path

import click

from slidescan.commands.checks import check_map
from slidescan.commands.export.options import open_map_to_export, target_options
from slidescan.commands.options import PATH, PLACE
from slidescan.commands.terminal import bar
from slidescan.tools.urls import Place


@click.command("ngff04")
@click.argument("map_path", metavar="MAP", type=PLACE)
@target_options
@click.option("--out", type=PATH, required=True, help="The folder, e.g. map-04.zarr.")
def ngff04(map_path: Place, partial: bool, overwrite: bool, out: Path) -> None:
    """Write the map as OME-NGFF 0.4 in zarr format 2, for programs that read nothing newer.

    A map itself is OME-NGFF 0.5 in zarr format 3.

    \b
    Examples:
      slidescan export ngff04 map.zarr --out map-04.zarr
    """
    check_map(map_path)
    from slidescan.exports import ngff04 as writer

    writer.check_target(out, overwrite=overwrite)
    heatmap = open_map_to_export(map_path, partial=partial)
    writer.write(heatmap, out, bar)
    rows, columns = heatmap.grid.shape
    click.echo(f"{out}: {columns} x {rows} cells, OME-NGFF {writer.VERSION}")
