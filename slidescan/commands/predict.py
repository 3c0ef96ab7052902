"""`slidescan predict`: patches in, a table of tumour probabilities out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slidescan.commands.checks import check_exist, check_models
from slidescan.commands.options import PATH, engine_options, ensemble_options, precision_option
from slidescan.commands.terminal import Terminal, warn
from slidescan.errors import SlidescanError, WriteError

if TYPE_CHECKING:
    from slidescan.patches.sources import Source


@click.command()
@click.argument("folder", type=PATH, required=False)
@click.option(
    "--list", "list_path", type=PATH, help="Instead of FOLDER: a text file with a path a line."
)
@click.option(
    "--like",
    type=PATH,
    help="CSV with a column id, e.g. Kaggle's sample_submission.csv: which patches, and in which "
    "order. [default: all, by name]",
)
@click.option("--skip-bad", is_flag=True, help="Leave out what cannot be read, and list it.")
@ensemble_options
@engine_options
@precision_option
@click.option(
    "--out",
    type=PATH,
    required=True,
    help="The table, CSV (id,label). An existing file is overwritten when the run finishes.",
)
def command(
    folder: Path | None,
    out: Path,
    list_path: Path | None,
    like: Path | None,
    skip_bad: bool,
    **options: Any,
) -> None:
    """Score patches: the probability that their central 32 x 32 px hold tumour.

    A patch is an RGB image of 96 x 96 px. FOLDER holds images (tif, png, jpg, webp, bmp), whose
    ids are their names without the ending, or PatchCamelyon's HDF5 test file. It may also be an
    HDF5 file. A run that was stopped is resumed by the same command and ends in the same table.

    \b
    Examples:
      slidescan predict patches --out submission.csv
      slidescan predict patches --like labels.csv --out submission.csv
      slidescan predict patches --model default --model fast --out submission.csv
    """
    named = folder or list_path
    if named is None or (folder and list_path):
        raise click.UsageError("name a FOLDER, or a --list of images, and not both")
    check_exist(named, like)
    check_models(options["models"])
    if out.is_dir():
        raise WriteError(f"{out}: is a folder; name the table, e.g. --out {out / 'submission.csv'}")

    from slidescan.patches.prediction import Options, Predictor
    from slidescan.tools.atomic_files import lock, release

    options["device"] = options["device"] or "auto"
    held = lock(out)
    try:
        source, order = _wanted(named, list_path is not None, like)
        predictor = Predictor(Options(**options))
        done = predictor.write_table(source, order, out, skip_bad, Terminal())
    except KeyboardInterrupt as error:
        raise SlidescanError(
            "interrupted; scores are kept, and the same command resumes the run"
        ) from error
    finally:
        release(held)
    model = predictor.ensemble.name
    click.echo(f"{out}: {done.patches} patches, model {model}, {done.seconds:.1f} s")


def _wanted(named: Path, is_list: bool, like: Path | None) -> tuple[Source, list[str]]:
    """The patches to score, and their ids in the order of the table."""
    from slidescan.patches import sources

    source: Source = sources.listed(named) if is_list else sources.find(named)
    below = [] if is_list else sources.overlooked(named)
    if below:
        warn(
            f"{named}: images in {len(below)} subfolders are not scored, e.g. {below[0]}; name "
            "each folder, or their images with --list"
        )
    if like is None:
        return source, list(source.ids)
    from slidescan.tools.csv_tables import read_table

    order = [row["id"] or "" for _, row in read_table(like, ("id",))]
    source, extra = sources.select(source, order, like)
    if extra:
        warn(
            f"{named}: {len(extra)} patches are not in {like}, e.g. "
            f"{', '.join(extra[:3])}; left out"
        )
    return source, order
