"""`slidescan regions`: candidates for lesions in a map, measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slidescan.commands.checks import check_map, check_new
from slidescan.commands.export.options import (
    RuleChoices,
    open_map_to_export,
    region_options,
    target_options,
)
from slidescan.commands.options import PATH, PLACE
from slidescan.commands.terminal import bar

if TYPE_CHECKING:
    from slidescan.maps.regions import Region
    from slidescan.tools.urls import Place

SHOWN = 20
"""Regions that are printed; the file has all."""

HEAD = (
    *("region", "size class", "area um2", "major axis um"),
    *("p max", "p mean", "p 95", "x l0", "y l0"),
)


@click.command
@click.argument("map_path", metavar="MAP", type=PLACE)
@region_options
@target_options
@click.option("--out", type=PATH, help="Write all regions to a .csv or a .json.")
def command(
    map_path: Place,
    out: Path | None,
    threshold: float | str,
    low: float | str | None,
    min_area: float,
    model: str | None,
    partial: bool,
    overwrite: bool,
) -> None:
    """Find regions of high probability in MAP, measure them and print the hottest.

    A region is a set of connected cells (8 neighbours). x and y are its centroid in pixels of the
    slide's level 0. Needs no annotations and no slide. `slidescan export geojson` writes outlines.

    \b
    Examples:
      slidescan regions map.zarr
      slidescan regions map.zarr --threshold 0.8 --min-area 5000
      slidescan regions map.zarr --threshold 0.9 --low 0.5 --out regions.csv
    """
    check_map(map_path)
    if out:
        check_new(out, (".csv", ".json"), overwrite=overwrite)
    rule = RuleChoices(threshold, low, min_area, model).rule(map_path)

    from slidescan.exports import region_tables
    from slidescan.maps.regions import find_regions
    from slidescan.tools.csv_tables import write_table

    with open_map_to_export(map_path, partial=partial) as heatmap:
        regions = find_regions(heatmap, rule, bar)
        for line in _lines(regions):
            click.echo(line)
        click.echo(region_tables.summary(rule, regions))
        click.echo(region_tables.caveat(heatmap))
        if out and out.suffix.lower() == ".json":
            region_tables.write_json(out, heatmap, rule, regions)
        elif out:
            write_table(out, list(region_tables.COLUMNS), region_tables.rows(regions))
    if out:
        click.echo(f"{out}: {len(regions)} regions")


def _lines(regions: Sequence[Region]) -> Iterator[str]:
    """The hottest regions as a table."""
    from slidescan.tools.text_tables import aligned

    if not regions:
        return
    yield from aligned([HEAD, *map(_row, regions[:SHOWN])], right=[0, *range(2, len(HEAD))])
    if len(regions) > SHOWN:
        yield f"... and {len(regions) - SHOWN} more; --out FILE.csv writes all"


def _row(region: Region) -> tuple[str, ...]:
    probabilities = (region.highest, region.mean, region.p95)
    return (
        str(region.number),
        region.size_class,
        f"{region.area_um2:,.0f}",
        f"{region.major_axis_um:,.0f}",
        *(f"{each:.3f}" for each in probabilities),
        *(f"{each:.0f}" for each in region.centroid_l0),
    )
