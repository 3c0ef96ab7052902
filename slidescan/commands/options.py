"""Options and habits that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
THREADS = click.IntRange(1, 4096)


class Real(click.FloatRange):
    """A number in a range; NaN, which every comparison lets pass, is none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """As click does it, and finite."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a number in the range", param, ctx)
        return number


def engine_options(command: F) -> F:
    """--engine, --device, --threads, --no-cache."""
    for option in (
        click.option(
            "--no-cache",
            "cache",
            is_flag=True,
            flag_value=False,
            default=True,
            help="Do not keep compiled networks in the user's cache folder. Every run then "
            "compiles them again.",
        ),
        click.option(
            "--threads",
            type=THREADS,
            help="Processors to use. [default: all that this process may use]",
        ),
        click.option(
            "--device",
            help="cpu, cuda:1, ..., cuda (for maps every GPU), or auto: cuda where there is a GPU. "
            "[default: auto; of a map, its own]",
        ),
        click.option(
            "--engine",
            type=click.Choice(["openvino", "torch"]),
            help="What runs the network. [default: openvino on the cpu, else torch]",
        ),
    ):
        command = option(command)
    return command


def data_options(command: F) -> F:
    """--data and what says which of its patches are taken."""
    for option in (
        click.option(
            "--skip-bad", is_flag=True, help="Leave out what is wrong with the data, and list it."
        ),
        click.option(
            "--cache", type=PATH, help="Folder for the packed patches. [default: within DATA]"
        ),
        click.option(
            "--groups", type=PATH, help="CSV (id,slide): no slide lies on both sides of the split."
        ),
        click.option(
            "--ids", type=PATH, help="Only these patches: a file with an id, or its start, a line."
        ),
        click.option(
            "--data",
            type=PATH,
            required=True,
            help="Kaggle's layout (train/<id>.tif, train_labels.csv), the original HDF5 files, or "
            "a folder per class.",
        ),
    ):
        command = option(command)
    return command


def settings_options(command: F) -> F:
    """--config and --set."""
    for option in (
        click.option(
            "--set",
            "changes",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change a setting, e.g. --set learning_rate=0.01 --set augment.stain.p=0.",
        ),
        click.option(
            "--config",
            type=PATH,
            metavar="NAME_OR_FILE",
            help="Settings: a shipped configuration (slidescan configs lists them) or a YAML file. "
            "[default: pcam]",
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

_MODELS = (
    "A shipped model's name, or FILE.safetensors with its card FILE.json beside it; given several "
    "times, the probabilities are averaged."
)

models_option = click.option(
    "--model", "models", multiple=True, default=("default",), show_default=True, help=_MODELS
)
recorded_models_option = click.option(
    "--model", "models", multiple=True, help=f"{_MODELS} [default: the shipped ones that made MAP]"
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16", "int8", "auto"]),
    default="fp32",
    show_default=True,
    help="Arithmetic of the network; below fp32 probabilities may differ by 0.02. int8 is faster "
    "than bf16 on a CPU, and they may differ by 0.05. auto takes the faster one of fp32 and bf16. "
    "int8 and auto depend on the machine, so another one may not go on with the map.",
)

tumour_class_option = click.option(
    "--tumour-class",
    "tumour_classes",
    multiple=True,
    metavar="NAME",
    help="A further class of the annotations that is tumour; unclassified: regions without a "
    "class. May be repeated.",
)


def ensemble_options(command: F) -> F:
    """--model, --tta."""
    tta = click.option(
        "--tta",
        type=click.Choice(["d4"]),
        help="Test-time augmentation: average the eight flips and rotations, in eight times the "
        "time.",
    )
    return models_option(tta(command))


@contextmanager
def _extra(purpose: str, name: str) -> Iterator[None]:
    """Name the command that installs a library that is missing."""
    from slidescan.errors import ConfigError
    from slidescan.tools.extras import install_command

    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{purpose} needs {error.name}, which is not installed; run: {install_command(name)}"
        ) from error


training_libraries = partial(_extra, "training", "train")
evaluation_libraries = partial(_extra, "evaluation", "evaluate")
