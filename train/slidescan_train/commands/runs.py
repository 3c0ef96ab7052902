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
@click.option("--out", type=PATH, help="PNG of the validation curves. [default: DIR/runs.png]")
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default="auc",
    show_default=True,
    help="By best AUC, by the last epoch's loss, or by name.",
)
def command(folder: Path, out: Path | None, sort: str) -> None:
    """Compare the training runs in DIR and in folders up to three below it.

    A table of their validation scores and of the settings in which they differ, and one picture
    of their curves.
    """
    picture = folder / "runs.png" if out is None else out
    if out:
        check_png(out)
    with training_libraries():
        from slidescan_train.runs import pictures
        from slidescan_train.runs.comparison import compare, table

    found = compare(folder, warn)
    if sort == "loss":
        found.sort(key=lambda run: (isnan(run.last_loss), run.last_loss))
    elif sort == "name":
        found.sort(key=lambda run: run.name)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    click.echo(table(found, width))
    pictures.runs(picture, {run.name: run.history for run in found})
    click.echo(f"{picture}: their validation loss and AUC")
