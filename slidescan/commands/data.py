"""`slidescan data`: describe a folder of patches, and check it for training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slidescan.commands.options import PATH, training_libraries
from slidescan.commands.terminal import plain_bar
from slidescan.errors import DataError
from slidescan.tools.atomic_files import check_png

if TYPE_CHECKING:
    from slidescan.patches.labelled.division import Data
    from slidescan.patches.labelled.survey import Survey


@click.command()
@click.argument("root", metavar="DIR", type=PATH)
@click.option(
    "--ids", type=PATH, help="Only these patches: a file with an id, or its start, per line."
)
@click.option("--groups", type=PATH, help="CSV (id,slide), to divide by slide as training would.")
@click.option("--cache", type=PATH, help="Folder for the packed patches. [default: within DIR]")
@click.option("--report", type=PATH, help="CSV (kind,name,detail) of every defect.")
@click.option(
    "--out", type=PATH, default="data.png", show_default=True, help="Picture of some patches."
)
def command(
    root: Path,
    ids: Path | None,
    groups: Path | None,
    cache: Path | None,
    report: Path | None,
    out: Path,
) -> None:
    """Describe the patches in DIR: counts, classes, sizes, colours, duplicates and every defect.

    DIR has Kaggle's layout (train/<id>.tif, train_labels.csv), the original HDF5 files of
    PatchCamelyon, or a folder for each class. Images without labels are described too. Exit code 1
    if training would refuse labelled patches.

    \b
    Examples:
      slidescan data pcam
      slidescan data patches --out patches.png
      slidescan data pcam --report defects.csv --out data.png
    """
    check_png(out)
    with training_libraries():
        from tqdm import tqdm

        from slidescan.patches.labelled import defects, summary
        from slidescan.patches.labelled.dataset import read_slides
        from slidescan.patches.labelled.survey import survey, survey_of
        from slidescan.patches.labelled.unlabelled import is_unlabelled, list_images

    data, problem = None, None
    if is_unlabelled(root):
        if ids or groups:
            raise DataError(f"{root}: images without labels; leave out --ids and --groups")
        found = survey_of(list_images(root), cache=cache, progress=plain_bar, say=tqdm.write)
        if report:
            defects.write_defects(report, found.defects)
    else:
        slides = read_slides(groups, root) if groups else None
        found = survey(root, only=ids, cache=cache, progress=plain_bar, say=tqdm.write)
        data, problem = _divided(found, slides, report)
    for line in summary.report(found, data):
        click.echo(line)
    if len(found.kept()):
        summary.picture(out, found, str(root))
        click.echo(f"picture     {out}")
    if problem:
        raise problem


def _divided(
    found: Survey, slides: Mapping[str, str] | None, report: Path | None
) -> tuple[Data | None, DataError | None]:
    """Divide the patches without defects as training would, or say why it would refuse them."""
    from slidescan.patches.labelled.defects import refusal, write_defects
    from slidescan.patches.labelled.division import divide

    problem: DataError | None = None
    if found.defects:
        problem = refusal(found.listing.root, found.defects, report)
        if report:
            write_defects(report, found.defects)
    try:
        return divide([found], slides=slides), problem
    except DataError as error:
        return None, problem or error
