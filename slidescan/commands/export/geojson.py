"""`slidescan export geojson`: regions or cells for QuPath and others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from slidescan.commands.checks import check_map, check_new, check_slide_and_map
from slidescan.commands.export.options import (
    RuleChoices,
    open_map_to_export,
    region_options,
    target_options,
)
from slidescan.commands.options import PATH
from slidescan.commands.terminal import bar, open_slide_of, warn

if TYPE_CHECKING:
    from slidescan.exports.qupath import Corner
    from slidescan.maps.regions import Rule
    from slidescan.maps.store import Heatmap

ENDINGS = (".geojson", ".json")


@click.command("geojson")
@click.argument("map_path", metavar="MAP", type=PATH)
@click.option(
    "--slide",
    "slide_path",
    type=PATH,
    help="The slide of the map, which is then checked. Needed only for maps that do not record "
    "which part of the slide QuPath shows.",
)
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
@click.option(
    "--no-crop",
    is_flag=True,
    help="Keep coordinates of level 0. QuPath crops some slides (MRXS) to their scanned part, "
    "which the coordinates follow by default; other programs do not.",
)
@click.option(
    "--script", is_flag=True, help="Also write a .groovy beside it, which imports it into QuPath."
)
@target_options
@click.option("--out", type=PATH, required=True, help="The file, e.g. map.geojson.")
@click.pass_context
def geojson(
    ctx: click.Context,
    map_path: Path,
    slide_path: Path | None,
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
        corner = _corner(heatmap, slide_path, no_crop)
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


def _corner(heatmap: Heatmap, slide_path: Path | None, no_crop: bool) -> Corner:
    """The (x, y) of level 0 that is (0, 0) in the file. Raises where it is another map's slide."""
    from slidescan.exports.qupath import recorded_corner

    found = recorded_corner(heatmap)
    if slide_path:
        with open_slide_of(heatmap, slide_path) as slide:
            found = (slide.bounds_l0.x0, slide.bounds_l0.y0)
    if no_crop:
        return 0, 0
    if found is None:
        warn(
            f"{heatmap.path}: does not record which part of the slide QuPath shows; if regions are "
            "shifted there (MRXS), give the slide with --slide"
        )
    return found or (0, 0)


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
