"""`slidescan export spatialdata`: a map, its tissue and its regions as SpatialData."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click

from slidescan.commands.checks import check_map
from slidescan.commands.export.options import (
    RuleChoices,
    open_map_to_export,
    region_options,
    target_options,
)
from slidescan.commands.options import PATH, PLACE, spatialdata_libraries
from slidescan.commands.terminal import bar
from slidescan.tools.urls import Place


@click.command("spatialdata")
@click.argument("map_path", metavar="MAP", type=PLACE)
@region_options
@target_options
@click.option("--out", type=PATH, required=True, help="The folder, e.g. map.spatialdata.zarr.")
def spatialdata(
    map_path: Place,
    out: Path,
    threshold: float | str,
    low: float | str | None,
    min_area: float,
    model: str | None,
    partial: bool,
    overwrite: bool,
) -> None:
    """Write the map, its tissue and its regions as SpatialData, for scverse, wsidata and LazySlide.

    The coordinate system "global" is the slide's level 0 in pixels.

    \b
    Examples:
      slidescan export spatialdata map.zarr --out map.spatialdata.zarr
      slidescan export spatialdata map.zarr --threshold 0.8 --out map.spatialdata.zarr
    """
    check_map(map_path)
    rule = RuleChoices(threshold, low, min_area, model).rule(map_path)
    with spatialdata_libraries():
        import_module("spatialdata")  # first, so that a message names it and not what it brings

        from slidescan.exports import spatial_elements

    from slidescan.maps.regions import find_regions
    from slidescan.tools.atomic_files import check_folder

    check_folder(out)
    spatial_elements.check_target(out, overwrite=overwrite)
    heatmap = open_map_to_export(map_path, partial=partial)
    regions = find_regions(heatmap, rule, bar)
    spatial_elements.write(out, spatial_elements.elements(heatmap, regions))
    rows, columns = heatmap.grid.shape
    told = f"{len(regions)} regions" if regions else "no region, so no shapes"
    click.echo(f"{out}: {columns} x {rows} cells, {told}")
