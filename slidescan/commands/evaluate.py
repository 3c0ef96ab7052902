"""`slidescan evaluate`: how good are predictions, of patches and of slides?"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click

from slidescan.commands.options import (
    PATH,
    Real,
    bar,
    evaluation_libraries,
    warn,
)


class _Parts(click.Group):
    """`patches` is here, `slides` in a module of its own that is imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["patches", "slides"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "slides":
            return super().get_command(ctx, cmd_name)
        found: click.Command = import_module("slidescan.commands.evaluate_slides").command
        return found


@click.group(cls=_Parts)
def command() -> None:
    """Compare predictions with what is known, of patches or of slides."""


@command.command("patches")
@click.argument("predictions", type=PATH)
@click.argument("labels", type=PATH)
@click.option("--groups", type=PATH, help="CSV (id,slide): intervals by resampling slides.")
@click.option(
    "--common", is_flag=True, help="Evaluate the patches that both tables have, ignore the others."
)
@click.option("--out", type=PATH, help="Folder for metrics.json, metrics.md and PNGs.")
@click.option(
    "--images", type=PATH, help="Folder of the patches (<id>.tif, ...), to show the worst mistakes."
)
@click.option(
    "--threshold",
    type=Real(0, 1),
    default=0.5,
    show_default=True,
    help="A patch is called tumour from this probability on.",
)
@click.option(
    "--specificity",
    type=Real(0, 1),
    default=0.95,
    show_default=True,
    help="The sensitivity is given at this specificity, or above.",
)
@click.option(
    "--sensitivity",
    type=Real(0, 1),
    default=0.95,
    show_default=True,
    help="The specificity is given at this sensitivity, or above.",
)
@click.option(
    "--resamples",
    type=click.IntRange(0),
    default=1000,
    show_default=True,
    help="For the intervals; 0 leaves them out.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def patches(
    predictions: Path,
    labels: Path,
    groups: Path | None,
    common: bool,
    out: Path | None,
    images: Path | None,
    resamples: int,
    seed: int,
    **choices: float,
) -> None:
    """Compare the probabilities in PREDICTIONS with LABELS, both CSV (id,label).

    Prints every metric with its 95 % bootstrap interval. With --out, also writes them as JSON and
    Markdown, and PNGs: ROC, precision-recall, reliability, scores and, with --images, the worst
    mistakes.
    """
    from slidescan.errors import ConfigError

    if images and not out:
        raise ConfigError("--images shows the worst mistakes in --out; name a folder with --out")
    with evaluation_libraries():
        from slidescan.evaluation.patches import draw, draw_mistakes, evaluate
        from slidescan.evaluation.report import make_folder, text, write
        from slidescan.evaluation.scores import read_scores
        from slidescan.statistics.metrics import Choices

    scores = read_scores(predictions, labels, groups, common=common)
    if out:
        make_folder(out)
    if out and images:  # before what takes long: it may be refused
        missing = draw_mistakes(out / "mistakes.png", scores, images, choices["threshold"])
        if missing:
            warn(f"{images}: has no image of {len(missing)} of the worst mistakes, {missing[0]}")
    with bar("resampling", resamples, "resample") as done:
        report = evaluate(scores, Choices(**choices), resamples, seed, done.update)
    click.echo(text(report))
    if out:
        if not images:  # those of an earlier evaluation would be of other predictions
            (out / "mistakes.png").unlink(missing_ok=True)
        draw(out, scores, report, choices["threshold"])
        write(out, report)
        click.echo(f"{out}: written")
