"""`slidescan train`: patches in, a model out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from slidescan.commands.options import (
    PATH,
    THREADS,
    data_options,
    settings_options,
    training_libraries,
)
from slidescan.commands.terminal import warn
from slidescan.errors import ConfigError, SlidescanError


@click.command()
@data_options
@settings_options
@click.option(
    "--out", type=PATH, help="Folder of the run. [default: runs/, named by settings and time]"
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the run in --out, with its settings; begin it where there is none.",
)
@click.option("--teacher", help="Distil from a model, or from FILE.onnx.")
@click.option(
    "--init",
    "start",
    help="Start from a model's weights, or from public ones: `imagenet` (a package brings them) or "
    "FILE.pth. [default: random weights]",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto takes a GPU where there is one.",
)
@click.option("--threads", type=THREADS, help="Processors for each process. [default: all]")
def command(
    out: Path | None, resume: bool, config: Path | None, changes: tuple[str, ...], **request: Any
) -> None:
    """Train the patch classifier on PatchCamelyon patches, or on others of 96 x 96 px.

    OUT holds, after every epoch, best.safetensors and last.safetensors, which `slidescan heatmap
    --model` takes, the metrics as tables, TensorBoard events and pictures. A run killed at any
    moment goes on with --resume. Several GPUs: torchrun --nproc-per-node N -m slidescan train ...
    """
    if resume and out is None:
        raise ConfigError("--resume goes on with a run: name its folder with --out")
    if out is None:
        name = config.stem if config else "pcam"
        out = Path("runs", f"{name}-{datetime.now():%Y%m%d-%H%M%S}")
    with training_libraries():
        from slidescan_train.loop.history import best
        from slidescan_train.recipe.config import load_config
        from slidescan_train.runs.recorder import CONFIG
        from slidescan_train.runs.run import Request, run
    begun = out / CONFIG
    if resume and config is None and begun.exists():
        config = begun
    with _interruptible(out):
        history = run(
            load_config(config, changes), Request(out=out, resume=resume, **request), warn
        )
    if int(os.environ.get("RANK", 0)):  # of torchrun: the first process tells it
        return
    last, top = history[-1], best(history) or history[-1]
    click.echo(
        f"{out}/best.safetensors: validation AUC {top.validation_auc:.4f}, epoch {top.number}; "
        f"last.safetensors: {last.validation_auc:.4f}, epoch {last.number}"
    )


@contextmanager
def _interruptible(out: Path) -> Iterator[None]:
    """Say what Ctrl-C leaves."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise SlidescanError(
            f"interrupted; the same command with --resume --out {out} goes on from the last "
            "checkpoint, or begins where there is none"
        ) from error
