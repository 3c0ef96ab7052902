"""`slidescan lr-find`: which learning rate to take."""

from __future__ import annotations

import math
from pathlib import Path

import click

from slidescan.commands.options import (
    PATH,
    THREADS,
    settings_options,
    several_data_options,
    training_libraries,
)
from slidescan.commands.terminal import bar, plain_bar
from slidescan.errors import ConfigError
from slidescan.tools.atomic_files import check_png


@click.command()
@several_data_options
@settings_options
@click.option("--low", type=float, default=1e-5, show_default=True, help="First rate.")
@click.option("--high", type=float, default=10.0, show_default=True, help="Last rate.")
@click.option(
    "--steps",
    type=click.IntRange(10, 100_000),
    default=100,
    show_default=True,
    help="Optimiser steps, each at a higher rate.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto takes a GPU where there is one.",
)
@click.option("--threads", type=THREADS, help="Processors to use. [default: all]")
@click.option(
    "--out", type=PATH, default="lr-find.png", show_default=True, help="PNG; a CSV goes beside it."
)
def command(
    data: tuple[Path, ...],
    ids: Path | None,
    groups: Path | None,
    cache: Path | None,
    skip_bad: bool,
    config: Path | None,
    changes: tuple[str, ...],
    low: float,
    high: float,
    steps: int,
    device: str,
    threads: int | None,
    out: Path,
) -> None:
    """Find a learning rate: raise it step by step and watch the loss (Smith 2017).

    Suggests a tenth of the rate at the lowest loss (the rule `minimum` of fastai). The network is
    trained from random weights, and nothing of it is kept.

    \b
    Examples:
      slidescan lr-find --data pcam --config quick --steps 20 --out lr-find.png
      slidescan lr-find --data pcam --config quick --set optimiser=sgd --steps 20
    """
    check_png(out)
    if not 0 < low < high < math.inf:
        raise ConfigError(f"--low {low:g} --high {high:g}: needs 0 < low < high, both finite")
    with training_libraries():
        # Everything that is mistyped is refused before torch is imported.
        from slidescan_train.commands.checks import check_data
        from slidescan_train.recipe.config import load_config

    settings = load_config(config, changes)
    check_data(data, ids, groups)
    with training_libraries():
        import numpy as np

        from slidescan.patches.labelled import load_data
        from slidescan.patches.labelled.splits import SHARE
        from slidescan_train.loop.devices import make_fabric
        from slidescan_train.loop.learner import Learner
        from slidescan_train.loop.range_test import range_test
        from slidescan_train.runs import pictures

    learner = Learner(settings, make_fabric(settings, device, threads))
    patches = load_data(
        *data,
        # Patches are held out even if the settings hold out none: the test needs no others.
        validation=settings.validation or SHARE,
        groups=groups,
        only=ids,
        cache=cache,
        skip_bad=skip_bad,
        progress=plain_bar,
        say=click.echo,
    )
    with bar("range test", steps, "step") as shown:

        def on_step(rate: float, smooth: float) -> None:
            shown.set_postfix(rate=f"{rate:.2g}", loss=f"{smooth:.3f}", refresh=False)
            shown.update()

        rates = np.geomspace(low, high, steps).tolist()
        test = range_test(learner, patches.training, rates, on_step)
    test.write(out.with_suffix(".csv"))
    pictures.range_test(out, test.rates, test.losses, test.smooth, test.suggestion)
    if test.suggestion is None:
        click.echo(f"{out}: the loss did not fall, so no rate is suggested; try more --steps")
    else:
        click.echo(
            f"{out}: suggested learning_rate {test.suggestion:.2g}, a tenth of the rate at the "
            f"lowest loss ({test.lowest:.2g})"
        )
