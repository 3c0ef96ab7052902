"""`slidescan train`: patches in, a model out."""

from __future__ import annotations

from pathlib import Path

import click

from slidescan.commands.options import PATH
from slidescan.errors import ConfigError


@click.command()
@click.option(
    "--data", type=PATH, required=True, help="Kaggle's layout: train/<id>.tif, train_labels.csv."
)
@click.option("--config", type=PATH, help="Settings, YAML. [default: those of configs/pcam.yaml]")
@click.option("--out", type=PATH, default="runs", show_default=True, help="Folder of the run.")
def command(data: Path, config: Path | None, out: Path) -> None:
    """Train the patch classifier on PatchCamelyon patches.

    A tenth of the patches, fixed by their ids, is held out for validation. After every epoch OUT
    holds model.safetensors with its card, which `slidescan heatmap --model` takes.
    """
    try:
        from slidescan_train.config import load_config
        from slidescan_train.run import run
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"training needs {error.name}, which is not installed; pip install 'slidescan[train]'"
        ) from error

    last = run(load_config(config), data, out)
    click.echo(f"{out}/model.safetensors: validation AUC {last.auc:.4f}")
