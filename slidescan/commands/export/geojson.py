"""`slidescan export geojson`: regions or cells for QuPath and others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from slidescan.commands.checks import check_map, check_new, check_slide_and_map
from slidescan.commands.export.options import (
    RuleChoices,
    corner_of,
    no_crop_option,
    open_map_to_export,
    region_options,
    slide_for_crop_option,
    target_options,
)
from slidescan.commands.options import PATH, PLACE
from slidescan.commands.terminal import bar

if TYPE_CHECKING:
    from slidescan.exports.qupath import Corner
    from slidescan.maps.regions import Rule
    from slidescan.maps.store import Heatmap
    from slidescan.tools.urls import Place

ENDINGS = (".geojson", ".json")


@click.command("geojson")
@click.argument("map_path", metavar="MAP", type=PLACE)
@slide_for_crop_option
@region_options
@click.option(
    "--tiles",
    is_flag=True,
    help="Write cells from --threshold up instead of regions, as tiles with a probability, for "
    "QuPath's measurement maps.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=100_000,
    show_default=True,
    help="With --tiles: the most cells to write, the hottest first.",
)
@click.option(
    "--class",
    "class_name",
    help="Class of the regions in QuPath. [default: Tumor candidate]",
)
@no_crop_option
@click.option(
    "--script", is_flag=True, help="Also write a .groovy beside it, which imports it into QuPath."
)
@target_options
@click.option("--out", type=PATH, required=True, help="The file, e.g. map.geojson.")
@click.pass_context
def geojson(
    ctx: click.Context,
    map_path: Place,
    slide_path: Place | None,
    out: Path,
    threshold: float | str,
    low: float | str | None,
    min_area: float,
    model: str | None,
    tiles: bool,
    limit: int,
    class_name: str | None,
    no_crop: bool,
    script: bool,
    partial: bool,
    overwrite: bool,
) -> None:
    """Write regions of MAP as GeoJSON for QuPath (0.5 to 0.7) and other programs.

    Regions become locked annotations with their measurements; `slidescan regions` prints them.
    Drop the file on the open slide in QuPath, or run the --script there.

    \b
    Examples:
      slidescan export geojson map.zarr --out map.geojson
      slidescan export geojson map.zarr --threshold 0.9 --low 0.5 --script --out map.geojson
      slidescan export geojson map.zarr --tiles --limit 20000 --out cells.geojson
    """
    if slide_path:
        check_slide_and_map(slide_path, map_path)
    check_map(map_path)
    _check_use(ctx, tiles)
    groovy = out.with_suffix(".groovy")
    for target, endings in ((out, ENDINGS), *([(groovy, (".groovy",))] if script else ())):
        check_new(target, endings, overwrite=overwrite)
    rule = RuleChoices(threshold, low, min_area, model).rule(map_path)

    from slidescan.exports.qupath import CLASS, write_script

    with open_map_to_export(map_path, partial=partial) as heatmap:
        corner = corner_of(heatmap, slide_path, no_crop=no_crop)
        if tiles:
            _write_tiles(out, heatmap, rule.threshold, limit, corner)
        else:
            _write_regions(out, heatmap, rule, corner, class_name or CLASS)
    if any(corner):
        click.echo(f"x and y are those of level 0 minus {corner}, as QuPath crops the slide")
    if script:
        write_script(groovy, out)
        click.echo(f"{groovy}: run it in QuPath's script editor")


def _check_use(ctx: click.Context, tiles: bool) -> None:
    """Refuse options that have no effect."""
    names = ("low", "min_area", "class_name") if tiles else ("limit",)
    for name in names:
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            option = "--class" if name == "class_name" else f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} is for {'regions' if tiles else 'cells (--tiles)'}.")


def _write_regions(
    out: Path, heatmap: Heatmap, rule: Rule, corner: Corner, class_name: str
) -> None:
    from slidescan.exports.qupath import write_regions
    from slidescan.exports.region_tables import caveat, summary
    from slidescan.maps.regions import find_regions

    regions = find_regions(heatmap, rule, bar)
    write_regions(out, heatmap, rule, regions, corner, class_name)
    click.echo(f"{out}: {summary(rule, regions)}")
    click.echo(caveat(heatmap))


def _write_tiles(out: Path, heatmap: Heatmap, threshold: float, limit: int, corner: Corner) -> None:
    from slidescan.exports.cells import hottest
    from slidescan.exports.qupath import write_cells

    cells = hottest(heatmap, threshold, limit, bar)
    with bar("writing", len(cells.values), "cell") as progress:
        write_cells(out, heatmap, cells, corner, progress.update)
    click.echo(f"{out}: {cells.note()}")
