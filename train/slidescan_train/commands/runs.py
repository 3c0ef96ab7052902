"""`slidescan runs`: training runs in a table and a picture."""

from __future__ import annotations

import shutil
import sys
from math import isnan
from pathlib import Path

import click

from slidescan.commands.options import PATH, training_libraries
from slidescan.commands.terminal import warn
from slidescan.tools.atomic_files import check_png

SORTS = ("auc", "loss", "name")


@click.command()
@click.argument("folder", metavar="DIR", type=PATH)
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default="auc",
    show_default=True,
    help="Sort by best AUC, by the last epoch's loss, or by name.",
)
@click.option("--all", "all_settings", is_flag=True, help="List every setting that differs.")
@click.option("--out", type=PATH, help="PNG of the validation curves. [default: DIR/runs.png]")
def command(folder: Path, sort: str, all_settings: bool, out: Path | None) -> None:
    """Compare the training runs in DIR and in folders up to three levels below it.

    Prints a table of teachers, start, training patches, validation scores and settings that differ,
    and draws the validation curves. Runs with different validation patches come in separate
    tables, because their scores cannot be compared.

    \b
    Examples:
      slidescan runs runs
      slidescan runs runs --sort name --all --out runs.png
    """
    picture = folder / "runs.png" if out is None else out
    if out:
        check_png(out)
    with training_libraries():
        from slidescan_train.runs import pictures
        from slidescan_train.runs.comparison import compare
        from slidescan_train.runs.table import tables

    found = compare(folder, warn)
    if sort == "loss":
        found.sort(key=lambda run: (isnan(run.last_loss), run.last_loss))
    elif sort == "name":
        found.sort(key=lambda run: run.name)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    click.echo(tables(found, width, all_settings))
    sets = len({run.origin.validation for run in found})
    pictures.runs(picture, {run.name: run.history for run in found}, sets)
    click.echo(f"{picture}: validation loss and AUC of the runs")
