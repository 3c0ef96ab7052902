"""`slidescan export csv` and `parquet`: cells or regions as a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from slidescan.commands.checks import check_map, check_new
from slidescan.commands.export.options import (
    THRESHOLD,
    RuleChoices,
    further_region_options,
    open_map_to_export,
    target_options,
    threshold_options,
)
from slidescan.commands.options import PATH, PLACE, parquet_libraries
from slidescan.commands.terminal import bar

if TYPE_CHECKING:
    from slidescan.maps.regions import Rule
    from slidescan.maps.store import Heatmap
    from slidescan.tools.urls import Place

F = TypeVar("F", bound=Callable[..., Any])


def _table_options(example: str) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in (
            click.option("--out", type=PATH, required=True, help=f"The file, e.g. {example}."),
            target_options,
            further_region_options,
            threshold_options(
                None,
                "Probability from which cells form regions, or are written. [default: 0.5 for "
                "regions, none for cells]",
            ),
            click.option(
                "--of",
                "content",
                type=click.Choice(["regions", "cells"]),
                default="regions",
                show_default=True,
                help="A row for each region, or for each cell with a value.",
            ),
            click.argument("map_path", metavar="MAP", type=PLACE),
        ):
            command = option(command)
        return command

    return decorate


@click.command("csv")
@_table_options("map.csv")
def csv(**given: Any) -> None:
    """Write the regions or the cells of MAP as a CSV table.

    \b
    Examples:
      slidescan export csv map.zarr --threshold 0.8 --out regions.csv
      slidescan export csv map.zarr --of cells --out cells.csv
    """
    _write(".csv", **given)


@click.command("parquet")
@_table_options("map.parquet")
def parquet(**given: Any) -> None:
    """Write the regions or the cells of MAP as a Parquet table; needs pyarrow.

    \b
    Examples:
      slidescan export parquet map.zarr --of cells --out cells.parquet
      slidescan export parquet map.zarr --of cells --threshold 0.5 --out hot.parquet
    """
    _write(".parquet", **given)


def _write(
    ending: str,
    map_path: Place,
    content: str,
    threshold: float | str | None,
    low: float | str | None,
    min_area: float,
    model: str | None,
    partial: bool,
    overwrite: bool,
    out: Path,
) -> None:
    check_map(map_path)
    check_new(out, (ending,), overwrite=overwrite)
    rule = None
    if content == "cells":
        _check_use()
    if content == "regions" or threshold is not None:
        at = THRESHOLD if threshold is None else threshold
        rule = RuleChoices(at, low, min_area, model).rule(map_path)
    if ending == ".parquet":
        with parquet_libraries():
            import pyarrow.parquet  # noqa: F401  # before the map is read
    with open_map_to_export(map_path, partial=partial) as heatmap:
        if content == "cells":
            _write_cells(out, heatmap, rule.threshold if rule else None)
        elif rule:
            _write_regions(out, heatmap, rule)


def _write_cells(out: Path, heatmap: Heatmap, threshold: float | None) -> None:
    from slidescan.exports.tables import write_cells_csv, write_cells_parquet

    write = write_cells_csv if out.suffix.lower() == ".csv" else write_cells_parquet
    count = write(out, heatmap, threshold, bar)
    which = "" if threshold is None else f" from {threshold:.4g} up"
    click.echo(f"{out}: {count:,} cells{which}")


def _write_regions(out: Path, heatmap: Heatmap, rule: Rule) -> None:
    from slidescan.exports.region_tables import COLUMNS, caveat, rows, summary
    from slidescan.exports.tables import write_regions_parquet
    from slidescan.maps.regions import find_regions
    from slidescan.tools.csv_tables import write_table

    regions = find_regions(heatmap, rule, bar)
    if out.suffix.lower() == ".csv":
        write_table(out, list(COLUMNS), rows(regions))
    else:
        write_regions_parquet(out, heatmap, regions)
    click.echo(f"{out}: {summary(rule, regions)}")
    click.echo(caveat(heatmap))


def _check_use() -> None:
    """Refuse options of regions, which have no effect on cells."""
    ctx = click.get_current_context()
    for name in ("low", "min_area"):
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name.replace('_', '-')} is for regions.")
