"""`slidescan data`: what is in a folder of patches, and would training take it?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slidescan.commands.options import PATH, training_libraries

if TYPE_CHECKING:
    from slidescan.errors import DataError
    from slidescan.patches.labelled.dataset import Data, Survey


@click.command()
@click.argument("root", metavar="DIR", type=PATH)
@click.option(
    "--ids", type=PATH, help="Only these patches: a file with an id, or its start, a line."
)
@click.option("--groups", type=PATH, help="CSV (id,slide), to divide by slide as training would.")
@click.option("--cache", type=PATH, help="Folder for the packed patches. [default: within DIR]")
@click.option(
    "--out", type=PATH, default="data.png", show_default=True, help="Picture of some patches."
)
@click.option("--report", type=PATH, help="CSV (kind,name,detail) of every defect.")
def command(
    root: Path,
    ids: Path | None,
    groups: Path | None,
    cache: Path | None,
    out: Path,
    report: Path | None,
) -> None:
    """Show what is in DIR: counts, classes, sizes, colours, duplicates, all that is wrong with it,
    and a picture of patches of both classes.

    DIR has Kaggle's layout (train/<id>.tif, train_labels.csv), the original HDF5 files of
    PatchCamelyon, or a folder for each class. Exit code 1 where training would refuse it.
    """
    with training_libraries():
        from tqdm import tqdm

        from slidescan.patches.labelled import summary
        from slidescan.patches.labelled.dataset import read_slides, survey

    from slidescan.tools.atomic_files import check_png

    check_png(out)
    slides = read_slides(groups, root) if groups else None
    bar = partial(tqdm, disable=None, dynamic_ncols=True)
    found = survey(root, only=ids, cache=cache, progress=bar, say=tqdm.write)
    data, problem = _divided(found, slides, report)
    for line in summary.report(found, data):
        click.echo(line)
    if data:
        summary.picture(out, found, str(root))
        click.echo(f"picture     {out}")
    if problem:
        raise problem


def _divided(
    found: Survey, slides: Mapping[str, str] | None, report: Path | None
) -> tuple[Data | None, DataError | None]:
    """The two sides of what is right, if there can be, and why training would refuse, if so."""
    from slidescan.errors import DataError
    from slidescan.patches.labelled.dataset import divide
    from slidescan.patches.labelled.defects import refusal, write_defects

    problem: DataError | None = None
    if found.defects:
        problem = refusal(found.listing.root, found.defects, report)
        if report:
            write_defects(report, found.defects)
    try:
        return divide(found, slides=slides), problem
    except DataError as error:
        return None, problem or error
