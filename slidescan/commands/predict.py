"""`slidescan predict`: patches in, a table of tumour probabilities out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from slidescan.commands.options import (
    PATH,
    engine_options,
    ensemble_options,
    precision_option,
)
from slidescan.commands.terminal import bar, warn

if TYPE_CHECKING:
    from slidescan.engines.ensemble import Ensemble
    from slidescan.patches.decoding import Bad
    from slidescan.patches.journal import Journal
    from slidescan.patches.sources import Source


@click.command()
@click.argument("folder", type=PATH, required=False)
@click.option(
    "--out",
    type=PATH,
    required=True,
    help="The table: CSV (id,label); one that is there is replaced at the end.",
)
@click.option("--list", "list_path", type=PATH, help="Instead of FOLDER: a file, a path a line.")
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
def command(
    folder: Path | None,
    out: Path,
    list_path: Path | None,
    like: Path | None,
    skip_bad: bool,
    models: tuple[str, ...],
    tta: Literal["d4"] | None,
    **how: Any,
) -> None:
    """Score every patch of FOLDER: the probability that its central 32 x 32 px hold tumour.

    FOLDER holds images of 96 x 96 px (tif, png, jpg, webp, bmp), whose ids are their names, or the
    HDF5 test file of PatchCamelyon; it may be an HDF5 file. Stopped at any moment, the same
    command goes on where it was, and ends with the same table.

    \b
    Examples:
      slidescan predict patches --out submission.csv
      slidescan predict patches --like labels.csv --model default --model fast --out submission.csv
    """
    named = folder or list_path
    if named is None or (folder and list_path):
        raise click.UsageError("name a FOLDER, or a --list of images, and not both")

    from slidescan.engines.ensemble import Ensemble
    from slidescan.errors import SlidescanError, WriteError
    from slidescan.tools.atomic_files import lock, release

    if out.is_dir():
        raise WriteError(f"{out}: is a folder; name the table, e.g. --out {out / 'submission.csv'}")
    held = lock(out)
    try:
        ensemble = Ensemble.load(models, tta)
        source, order = _wanted(named, list_path is not None, like)
        _score(out, ensemble, source, order, skip_bad, **how)
    except KeyboardInterrupt as error:
        raise SlidescanError(
            "interrupted; what was scored stays, the same command goes on from there"
        ) from error
    finally:
        release(held)


def _wanted(named: Path, is_list: bool, like: Path | None) -> tuple[Source, list[str]]:
    """The patches to score, and the order of the table."""
    from slidescan.patches import sources

    source: Source = sources.listed(named) if is_list else sources.find(named)
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


def _score(
    out: Path,
    ensemble: Ensemble,
    source: Source,
    order: list[str],
    skip_bad: bool,
    *,
    engine: Literal["openvino", "torch"] | None,
    device: str | None,
    precision: Literal["fp32", "bf16", "fp16", "int8", "auto"],
    threads: int | None,
) -> None:
    """Score, and write the table once all is there."""
    import time

    from slidescan.engines.backend import AUTO, choose
    from slidescan.patches.journal import Journal
    from slidescan.patches.prediction import BATCH, predict, write_predictions
    from slidescan.tools.hardware import cores

    backend = choose(engine, device or AUTO, precision, threads or cores())
    settings = {
        **ensemble.record(),
        "engine": backend.engine,
        "device": backend.device.partition(":")[0],
        "precision": backend.precision,
        "batch": BATCH,
        "patches": source.digest(),
    }
    count, started = len(source.ids), time.perf_counter()
    with (
        Journal(out.with_name(f".{out.name}.partial"), settings, count) as journal,
        bar("predicting", count, "patch") as progress,
    ):
        progress.update(_continue(journal, out))
        bad = predict(
            source,
            lambda: ensemble.engine(backend),
            journal,
            backend.threads,
            progress.update,
        )
        _tell(bad, source, out, skip_bad)
        scores = {i: s for i, s in zip(source.ids, journal.scores, strict=True) if s == s}
        write_predictions(out, scores, order)
        journal.discard()
    seconds = time.perf_counter() - started
    click.echo(f"{out}: {len(scores)} patches, model {ensemble.name}, {seconds:.1f} s")


def _continue(journal: Journal, out: Path) -> int:
    """Say what an earlier run left; returns how many of the patches need not be scored again."""
    from slidescan.patches.prediction import unfinished

    if journal.other:
        warn(
            f"{out}: what an earlier run left was made with other settings "
            f"({'; '.join(journal.other)}); begun anew"
        )
    count = len(journal.scores)
    done = count - sum(map(len, unfinished(journal)))
    if done:
        click.echo(f"{out}: going on, {done} of {count} patches are there")
    return done


def _tell(bad: dict[int, Bad], source: Source, out: Path, skip_bad: bool) -> None:
    """List what could not be read, and stop unless it may be left out."""
    from slidescan.errors import DataError

    for row, why in bad.items():
        warn(f"{source.name(row)}: {why}")
    if bad and not skip_bad:
        raise DataError(
            f"{len(bad)} of {len(source.ids)} patches cannot be scored, so {out} is not written; "
            "correct them, or pass --skip-bad to leave them out; the others are kept"
        )
