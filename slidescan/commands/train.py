"""`slidescan train`: patches in, a model out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from slidescan.commands.options import PATH
from slidescan.errors import ConfigError, SlidescanError


@click.command()
@click.option(
    "--data", type=PATH, required=True, help="Kaggle's layout: train/<id>.tif, train_labels.csv."
)
@click.option(
    "--ids", type=PATH, help="Only these patches: a file with an id, or its start, a line."
)
@click.option("--config", type=PATH, help="Settings, YAML. [default: those of configs/pcam.yaml]")
@click.option("--out", type=PATH, default="runs", show_default=True, help="Folder of the run.")
def command(data: Path, ids: Path | None, config: Path | None, out: Path) -> None:
    """Train the patch classifier on PatchCamelyon patches.

    A tenth of the patches, fixed by their ids, is held out for validation. After every epoch OUT
    holds model.safetensors with its card, which `slidescan heatmap --model` takes.
    """
    with _interruptible(out):
        try:
            from slidescan_train.config import load_config
            from slidescan_train.run import run
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"training needs {error.name}, which is not installed; "
                "pip install 'slidescan[train]'"
            ) from error

        last = run(load_config(config), data, out, ids)
    click.echo(f"{out}/model.safetensors: validation AUC {last.auc:.4f}")


@contextmanager
def _interruptible(out: Path) -> Iterator[None]:
    """Say what Ctrl-C leaves: other commands go on where they stopped, training does not."""
    model = out / "model.safetensors"
    earlier = model.exists()  # refused, but only once the libraries are imported
    try:
        yield
    except KeyboardInterrupt as error:
        raise SlidescanError(
            f"interrupted; the model of the last finished epoch is in {out}"
            if model.exists() and not earlier
            else "interrupted; no epoch was finished"
        ) from error
