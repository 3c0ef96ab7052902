"""Options and habits that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from tqdm import tqdm

    from slidescan.slide import Slide

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


def engine_options(command: F) -> F:
    """--engine, --device, --threads."""
    for option in (
        click.option(
            "--threads",
            type=click.IntRange(1),
            help="Processors to use. [default: all that this process may use]",
        ),
        click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ..."),
        click.option(
            "--engine",
            type=click.Choice(["openvino", "torch"]),
            help="What runs the network. [default: openvino on the cpu, else torch]",
        ),
    ):
        command = option(command)
    return command


mpp_option = click.option(
    "--mpp",
    type=float,
    help="Micrometres per pixel of the slide's finest level, where it records none or a wrong one.",
)
model_option = click.option(
    "--model",
    default="default",
    show_default=True,
    help="A shipped model's name, or FILE.safetensors with its card FILE.json beside it.",
)


@contextmanager
def open_slide(path: Path, mpp: float | None) -> Iterator[Slide]:
    """Open a slide and show what looks wrong with it."""
    from slidescan.slide import Slide

    with Slide.open(path, mpp) as slide:
        for warning in slide.warnings:
            warn(f"{path}: {warning}")
        yield slide


def bar(description: str, total: float, unit: str) -> tqdm[Any]:
    """A progress bar on stderr, silent where that is no terminal."""
    from tqdm import tqdm

    return tqdm(
        desc=description, total=total, unit=unit, disable=None, dynamic_ncols=True, smoothing=0.05
    )


def warn(message: str) -> None:
    """One line on stderr."""
    click.echo(f"Warning: {message}", err=True)
