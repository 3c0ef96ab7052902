"""`slidescan train`: patches in, a model out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import click

from slidescan.commands.options import (
    PATH,
    THREADS,
    settings_options,
    several_data_options,
    training_libraries,
)
from slidescan.commands.terminal import command_line, warn
from slidescan.errors import ConfigError, SlidescanError


@click.command()
@several_data_options
@click.option(
    "--validation",
    type=PATH,
    multiple=True,
    help="Folder of patches to validate on and never to train on, in any layout. May be repeated; "
    "the first chooses the best epoch. `--set validation=0` holds out no others.",
)
@settings_options
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    help="Distil from this model, or from FILE.onnx. May be repeated: the probabilities are "
    "averaged.",
)
@click.option(
    "--init",
    "start",
    help="Start from a model's weights, or from public ones: `imagenet` (from an installed "
    "package) or FILE.pth. [default: random weights]",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto takes a GPU where there is one.",
)
@click.option("--threads", type=THREADS, help="Processors for each process. [default: all]")
@click.option(
    "--resume",
    is_flag=True,
    help="Resume the run in --out with its settings; begin it where there is none.",
)
@click.option(
    "--out", type=PATH, help="Folder of the run. [default: runs/, named by settings and time]"
)
def command(
    data: tuple[Path, ...],
    validation: tuple[Path, ...],
    ids: Path | None,
    groups: Path | None,
    cache: Path | None,
    skip_bad: bool,
    config: Path | None,
    changes: tuple[str, ...],
    teachers: tuple[str, ...],
    start: str | None,
    device: str,
    threads: int | None,
    resume: bool,
    out: Path | None,
) -> None:
    """Train the patch classifier on PatchCamelyon patches, or on your own of 96 x 96 px.

    After every epoch OUT holds best.safetensors and last.safetensors, which `slidescan heatmap
    --model` takes, tables of the metrics, TensorBoard events and pictures. A run that was killed is
    resumed with --resume. Several GPUs: torchrun --nproc-per-node N -m slidescan train ...

    \b
    Examples:
      slidescan train --data pcam --config quick --set epochs=1 --out runs/quick
      slidescan train --data pcam --data pcam_b --validation pcam_valid --set epochs=1 --out runs/b
      slidescan train --data pcam --config quick --set epochs=1 --teacher default --out runs/student
      slidescan train --data pcam --resume --out runs/first
    """
    if resume and out is None:
        raise ConfigError("--resume needs the folder of the run: name it with --out")
    if out is None:
        name = config.stem if config else "pcam"
        out = Path("runs", f"{name}-{datetime.now():%Y%m%d-%H%M%S}")
    with training_libraries():
        # Everything that is mistyped is refused before torch is imported.
        from slidescan_train.commands.checks import check_data, check_validation
        from slidescan_train.recipe.config import load_config
        from slidescan_train.runs.files import CONFIG, check_out
        from slidescan_train.teachers.sources import check_start, check_teacher

    begun = out / CONFIG
    if resume and config is None and begun.exists():
        config = begun
    settings = load_config(config, changes)
    check_data(data, ids, groups, validation)
    check_validation(settings.validation, data, validation)
    for teacher in teachers:
        check_teacher(teacher)
    if start:
        check_start(start)
    check_out(out, resume)
    with training_libraries():
        from slidescan_train.loop.history import best
        from slidescan_train.runs.run import Request, run
    request = Request(
        data=data,
        out=out,
        validation=validation,
        ids=ids,
        groups=groups,
        cache=cache,
        skip_bad=skip_bad,
        teachers=teachers,
        start=start,
        resume=resume,
        device=device,
        threads=threads,
        command=command_line(),
    )
    with _interruptible(out):
        history = run(settings, request, warn)
    if int(os.environ.get("RANK", 0)):  # under torchrun the first process alone reports
        return
    last, top = history[-1], best(history) or history[-1]
    click.echo(
        f"{out}/best.safetensors: validation AUC {top.validation_auc:.4f}, epoch {top.number}; "
        f"last.safetensors: {last.validation_auc:.4f}, epoch {last.number}"
    )


@contextmanager
def _interruptible(out: Path) -> Iterator[None]:
    """Tell after Ctrl-C how to resume."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise SlidescanError(
            f"interrupted; the same command with --resume --out {out} resumes from the last "
            "checkpoint, or begins where there is none"
        ) from error
