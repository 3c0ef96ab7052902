"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from slidescan.errors import ConfigError
from slidescan.tools.urls import Place, Url, is_url, place_of, without_secrets

F = TypeVar("F", bound=Callable[..., Any])


class LocalPath(click.Path):
    """A path of this machine; an address is refused."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:  # click's own returns Any
        """Return a Path. Raises ConfigError for an address, which says what to do."""
        if isinstance(value, str) and is_url(value):
            what = param.opts[0] if param and param.opts[0].startswith("-") else "this argument"
            raise ConfigError(
                f"{without_secrets(value)}: {what} is a file or folder of this machine; maps and "
                "slides alone may be addresses"
            )
        return super().convert(value, param, ctx)


class MapOrSlide(click.Path):
    """A path of this machine, or the address of a map or a slide."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:  # click's own returns Any
        """Return a Path or a Url. Raises ConfigError for an address that cannot be used."""
        if isinstance(value, str) and is_url(value):
            return place_of(value)
        return value if isinstance(value, Url) else super().convert(value, param, ctx)


PATH = LocalPath(path_type=Path)
PLACE = MapOrSlide(path_type=Path)
THREADS = click.IntRange(1, 4096)


class Real(click.FloatRange):
    """A finite number in a range; click's own range accepts NaN."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Convert as click does, and refuse NaN and infinity."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a number in the range", param, ctx)
        return number


class Threshold(Real):
    """A probability, or the name of an operating point in a model's card."""

    name = "probability|sens90|sens95|sens99"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:  # click's own range returns Any
        """Return a float, or the name as it is."""
        if not str(value).startswith("sens"):
            return super().convert(value, param, ctx)
        from slidescan.models.operating import SENSITIVITIES

        if value not in SENSITIVITIES:
            self.fail(f"{value} is none of {', '.join(SENSITIVITIES)}", param, ctx)
        return value


def _engine_options(engine: str, device: str) -> Callable[[F], F]:
    """--engine, --device, --threads, --no-cache, with what help says of their defaults."""

    def decorate(command: F) -> F:
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
                help="cpu, cuda:1, ..., cuda (every GPU in heatmap, elsewhere the first), or auto: "
                f"cuda where there is a GPU, else cpu. [default: {device}]",
            ),
            click.option(
                "--engine",
                type=click.Choice(["openvino", "torch"]),
                help=f"Library that runs the network. [default: {engine}]",
            ),
        ):
            command = option(command)
        return command

    return decorate


engine_options = _engine_options("openvino on the cpu, else torch", "auto")
recorded_engine_options = _engine_options("the map's", "the map's")


def _data_options(command: F, several: bool) -> F:
    for option in (
        click.option(
            "--skip-bad", is_flag=True, help="Leave out defective patches, and list them."
        ),
        click.option(
            "--cache", type=PATH, help="Folder for the packed patches. [default: within DATA]"
        ),
        click.option(
            "--groups", type=PATH, help="CSV (id,slide): no slide lies on both sides of the split."
        ),
        click.option(
            "--ids",
            type=PATH,
            help="Only these patches: a text file with an id, or the start of one, per line.",
        ),
        click.option(
            "--data",
            type=PATH,
            required=True,
            multiple=several,
            help="Kaggle's layout (train/<id>.tif, train_labels.csv), the original HDF5 files, or "
            f"a folder per class.{' May be repeated.' if several else ''}",
        ),
    ):
        command = option(command)
    return command


def data_options(command: F) -> F:
    """--data, and which of its patches are used."""
    return _data_options(command, several=False)


def several_data_options(command: F) -> F:
    """--data, once or several times, and which of its patches are used."""
    return _data_options(command, several=True)


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
    help="A shipped model's name, FILE.safetensors with its card FILE.json beside it, or a run's "
    "folder.",
)

_MODELS = (
    "A shipped model's name, FILE.safetensors with its card FILE.json beside it, or a run's "
    "folder. Given several times, the probabilities are averaged."
)

models_option = click.option(
    "--model", "models", multiple=True, default=("default",), show_default=True, help=_MODELS
)
recorded_models_option = click.option(
    "--model",
    "models",
    multiple=True,
    help=f"{_MODELS} [default: the shipped models that made MAP]",
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16", "int8", "auto"]),
    default="fp32",
    show_default=True,
    help="Arithmetic of the network. Probabilities may differ from those of fp32 by 0.02, in int8 "
    "by 0.05; int8 is the fastest on a CPU. auto takes bf16 where the processor has it, else fp32. "
    "int8 and auto depend on the machine: another one may not be able to resume the work.",
)

COLOURS = ("heat", "viridis", "cividis", "inferno", "magma", "plasma")
"""`slidescan.pictures.colours.NAMES`, which help does not import; a test compares them."""

colours_option = click.option(
    "--colours",
    "colour_name",
    type=click.Choice(COLOURS),
    default="heat",
    show_default=True,
    help="Colours of 0 to 1. heat leaves normal tissue as it is; the others are perceptually even "
    "and legible with colour blindness.",
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
        help="Test-time augmentation: d4 averages the eight flips and rotations, and takes eight "
        "times as long.",
    )
    return models_option(tta(command))


def resolve_threshold(threshold: float | str, maps: Sequence[Place], model: str | None) -> float:
    """Look up and print the threshold of an operating point; return a number as it is.

    Raises:
        MapError: the maps were not all made by one model.
        ModelError: its card has no such point.
    """
    if not isinstance(threshold, str):
        return threshold
    from slidescan.evaluation.thresholds import threshold_of_maps

    value = threshold_of_maps(threshold, maps, model)
    click.echo(f"threshold {threshold} of the maps' model: {value:.4g}")
    return value


def check_use_of_model(model: str | None, *thresholds: float | str | None) -> None:
    """Refuse a --model where no threshold is looked up in its card. Raises ConfigError."""
    if model is not None and not any(isinstance(each, str) for each in thresholds):
        raise ConfigError(
            f"--model {model}: is used to look up a named threshold; add one, e.g. --threshold "
            "sens95, or leave --model out"
        )


@contextmanager
def _extra(purpose: str, name: str) -> Iterator[None]:
    """Name the command that installs a library that is missing."""
    from slidescan.tools.extras import install_command

    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{purpose} needs {error.name}, which is not installed; run: {install_command(name)}"
        ) from error


training_libraries = partial(_extra, "training", "train")
ome_tiff_libraries = partial(_extra, "export ome-tiff", "ome-tiff")
evaluation_libraries = partial(_extra, "evaluation", "evaluate")
spatialdata_libraries = partial(_extra, "export spatialdata", "spatialdata")
dicom_libraries = partial(_extra, "export dicom", "dicom")
viewer_libraries = partial(_extra, "the viewer", "view")
parquet_libraries = partial(_extra, "Parquet", "parquet")
