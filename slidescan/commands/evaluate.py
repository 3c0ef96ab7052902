"""`slidescan evaluate`: compare predictions with labels, maps with annotations."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slidescan.commands.options import PATH, Real, Threshold, evaluation_libraries
from slidescan.commands.terminal import bar, warn

if TYPE_CHECKING:
    from slidescan.evaluation.scores import Scores


class _Parts(click.Group):
    """`slides` has a module of its own, which is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["patches", "slides"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "slides":
            return super().get_command(ctx, cmd_name)
        found: click.Command = import_module("slidescan.commands.evaluate_slides").command
        return found


@click.group(cls=_Parts)
def command() -> None:
    """Compare predictions of patches with labels, or maps of slides with annotations."""


@command.command("patches")
@click.argument("predictions", metavar="PREDICTIONS...", type=PATH, nargs=-1, required=True)
@click.argument("labels", type=PATH)
@click.option("--groups", type=PATH, help="CSV (id,slide): intervals by resampling slides.")
@click.option("--common", is_flag=True, help="Evaluate only the patches that all tables have.")
@click.option(
    "--images", type=PATH, help="Folder of the patches (<id>.tif, ...), to draw the worst mistakes."
)
@click.option(
    "--threshold",
    type=Threshold(0, 1),
    default=0.5,
    show_default=True,
    help="Operating point: patches with at least this probability are called tumour. A name, e.g. "
    "sens95, is looked up in the card of --model.",
)
@click.option(
    "--model",
    help="The model that made PREDICTIONS, for a named --threshold: a shipped model's name, "
    "FILE.safetensors or a run's folder.",
)
@click.option(
    "--specificity",
    type=Real(0, 1),
    default=0.95,
    show_default=True,
    help="Report the sensitivity at this specificity or above.",
)
@click.option(
    "--sensitivity",
    type=Real(0, 1),
    default=0.95,
    show_default=True,
    help="Report the specificity at this sensitivity or above.",
)
@click.option(
    "--resamples",
    type=click.IntRange(0),
    default=1000,
    show_default=True,
    help="Bootstrap resamples for the intervals; 0 gives none.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the bootstrap.",
)
@click.option("--out", type=PATH, help="Folder for metrics.json, metrics.md and PNGs.")
def patches(
    predictions: tuple[Path, ...],
    labels: Path,
    groups: Path | None,
    common: bool,
    out: Path | None,
    images: Path | None,
    resamples: int,
    seed: int,
    threshold: float | str,
    model: str | None,
    **choices: float,
) -> None:
    """Compare the probabilities in PREDICTIONS with LABELS, all CSV tables (id,label).

    Prints every metric with its 95 % bootstrap interval. With several tables of PREDICTIONS, all
    of the same patches, also prints the difference of each from the first table, with the
    interval of the paired difference and DeLong's p-value of the ROC AUC (without --groups), and
    how many patches all tables call wrong.

    With --out, also writes JSON, Markdown and PNGs: ROC, precision-recall, reliability and scores;
    for several tables their ROC curves. mistakes.csv lists the patches that all tables call wrong,
    the worst first, and with --images mistakes.png shows them: some may have a wrong label.

    \b
    Examples:
      slidescan evaluate patches scores.csv labels.csv
      slidescan evaluate patches scores.csv labels.csv --images patches --out report
      slidescan evaluate patches scores.csv labels.csv --threshold sens95 --model model.safetensors
      slidescan evaluate patches scores.csv scores_b.csv labels.csv
      slidescan evaluate patches scores.csv scores_b.csv labels.csv --images patches --out both
    """
    from slidescan.commands.checks import check_exist
    from slidescan.errors import ConfigError

    check_exist(*predictions, labels, groups, images)
    if images and not out:
        raise ConfigError("--images draws the worst mistakes into --out; name a folder with --out")
    value = _threshold(threshold, model, len(predictions))
    with evaluation_libraries():
        from slidescan.evaluation import paired, patch_report
        from slidescan.evaluation.report import make_folder, text, write
        from slidescan.evaluation.scores import read_scores, short_names
        from slidescan.statistics.metrics import OperatingPoints

    scores = read_scores(predictions, labels, groups, common=common)
    tables = dict(zip(short_names(predictions), scores, strict=True))
    if out:
        make_folder(out)
        _write_mistakes(out, tables, images, value)  # first: it may be refused, the rest takes long
    points, several = OperatingPoints(value, **choices), len(scores) > 1
    with bar("resampling", resamples, "resample") as done:
        if several:
            report = paired.compare(tables, points, resamples, seed, done.update)
        else:
            report = patch_report.evaluate(scores[0], points, resamples, seed, done.update)
    click.echo(text(report))
    if out:
        if several:
            paired.draw(out, tables, report)
        else:
            patch_report.draw(out, scores[0], report, value)
        write(out, report)
        click.echo(f"{out}: written")


def _threshold(threshold: float | str, model: str | None, tables: int) -> float:
    """Look up and print a named threshold; return a number as it is."""
    from slidescan.errors import ConfigError

    if not isinstance(threshold, str):
        if model is not None:
            raise ConfigError(
                f"--model {model}: is used to look up a named threshold; add one, e.g. --threshold "
                "sens95, or leave --model out"
            )
        return threshold
    if model is None:
        raise ConfigError(
            f"--threshold {threshold}: is looked up in a model's card, and tables do not say which "
            "model made them; add --model, e.g. --model default"
        )
    if tables > 1:
        raise ConfigError(
            f"--threshold {threshold}: is of one model; evaluate the {tables} tables one by one, "
            "or pass a number"
        )
    from slidescan.evaluation.thresholds import threshold_of
    from slidescan.models.card import read_card

    value = threshold_of(read_card(model), threshold)
    click.echo(f"threshold {threshold} of {model}: {value:.4g}")
    return value


def _write_mistakes(
    out: Path, tables: Mapping[str, Scores], images: Path | None, threshold: float
) -> None:
    """The patches that all tables call wrong, as a table and as a picture."""
    from slidescan.evaluation.mistakes import PICTURE, TABLE, draw, write

    if images:
        missing = draw(out / PICTURE, list(tables.values()), images, threshold)
        if missing:
            warn(f"{images}: has no image of {len(missing)} of the worst mistakes, {missing[0]}")
    else:  # those of an earlier evaluation would be of other predictions
        (out / PICTURE).unlink(missing_ok=True)
    write(out / TABLE, tables, threshold)
