"""A model's card: the facts about its weights, as JSON beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from slidescan.errors import ModelError, describe
from slidescan.geometry import PATCH_PX
from slidescan.models.ancestors import Made, Stages, with_ancestors
from slidescan.models.operating import OperatingTable
from slidescan.models.reference import Reference
from slidescan.models.scores import ScoredPatches, TrainingPatches, Validation
from slidescan.networks.logit_map import LogitMap
from slidescan.networks.plan import AnyPlan, Settings
from slidescan.tools.atomic_files import replacing
from slidescan.tools.regular_files import MB, read_regular

BEST = "best.safetensors"
"""The weights of a run's folder that a model named by the folder has."""

DEFAULT = "default"
"""The shipped model that commands use by default."""


MOST_OF_A_CARD, MOST_WEIGHTS = 4 * MB, 1024 * MB
"""Bytes of the two files. The largest network here, EfficientNet-Lite 4, has 52 MB."""


class Calibration(LogitMap):
    """A map of the logits, and its effect on the patches that it was fitted on."""

    fitted_on: str
    patches: int
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float
    """On the patches that it was fitted on, so optimistic."""
    ece_cross_fitted: float | None
    """On the same patches by cross-validation; None where there are too few."""
    nll_cross_fitted: float | None = None
    """Likewise; None also in cards of earlier versions."""


class Speed(Settings):
    """The speed of the network alone, without reading, on one machine."""

    mpx_per_s: dict[str, Annotated[float, Field(gt=0)]]
    """Megapixels of the scan plane a second, by engine and precision, as "openvino bf16"."""
    machine: str
    date: str
    command: str


class Card(Made):
    """The facts about a model that its users need, and that loading checks.

    Fields that are missing in cards of earlier versions are None.
    """

    name: str
    purpose: str | None = None
    """The use of the model, in one word."""
    plan: AnyPlan
    """Architecture and normalisation."""
    field_px: Annotated[int, Field(ge=1, le=PATCH_PX)]
    stride_px: Annotated[int, Field(ge=1, le=PATCH_PX)]
    mpp: Annotated[float, Field(ge=0.05, le=100)]
    """Micrometres per pixel of the patches it was trained on."""
    parameters: int | None = None
    """Number of learned parameters."""
    weights_sha256: str
    data: str
    split: str
    """Of the first validation set."""
    held_out_sha256: str | None = None
    """`ids_sha256` of the patches of the first validation set."""
    trained_on_sha256: str | None = None
    """`ids_sha256` of the training patches."""
    training_sets: tuple[TrainingPatches, ...] | None = None
    """The training patches by folder."""
    validation_sets: tuple[ScoredPatches, ...] | None = None
    """All validation sets. None of their patches was trained on."""
    chosen_by: str | None = None
    """The validation set whose AUC chose the epoch; None for the last epoch."""
    validation: Validation
    """On the first validation set."""
    calibration: Calibration | None = None
    """Part of the network that `load` builds. `validation` is without it."""
    operating: OperatingTable | None = None
    """Thresholds by sensitivity, on other patches than those of training."""
    speed: Speed | None = None
    reference: Reference | None = None
    """What the training patches look like, for warnings of unlike input."""
    reproduce: str
    """The command that made the weights."""
    versions: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        listed = isinstance(values, Mapping) and "ancestors" in values
        return with_ancestors(values) if listed else values

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        stages = Stages(self)
        return {**handler(self), **stages.made, "ancestors": stages.written}


def shipped(name: str) -> Path:
    """The weights of a model in the package."""
    return Path(str(files("slidescan.models") / "weights" / f"{name}.safetensors"))


def shipped_names() -> list[str]:
    """The models in the package, the default first."""
    names = {path.stem for path in shipped(DEFAULT).parent.glob("*.json")}
    return sorted(names, key=lambda name: (name != DEFAULT, name))


def locate(source: str) -> tuple[Path, Path]:
    """Weights and card of a shipped model's name, of either file of another, or of a run's best."""
    if source.endswith((".safetensors", ".json")):
        path = Path(source)
    elif Path(source).is_dir() and source not in shipped_names():
        path = Path(source) / BEST
    else:
        path = shipped(source)
    return path.with_suffix(".safetensors"), path.with_suffix(".json")


def read_card(source: str) -> Card:
    """The card of a shipped model by its name, or of `FILE.safetensors` or `FILE.json`.

    Raises `ModelError` where it is missing or damaged.
    """
    _, path = locate(source)
    try:
        return Card.model_validate_json(read_regular(path, MOST_OF_A_CARD))
    except FileNotFoundError as error:
        raise ModelError(f"{source}: {_missing(source, path)}") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ModelError(f"{path}: not a valid model card: {describe(error)}") from error


def _missing(source: str, card: Path) -> str:
    """What is wrong with the name of a model that has no card, and the remedy."""
    names = shipped_names()
    if Path(source).is_dir():
        return f"no {card.name} in this folder; name a run's folder, or a .safetensors file"
    if source.endswith((".safetensors", ".json")):
        if not card.with_suffix(".safetensors").exists():
            return "no such file; correct the path"
        return f"no model card {card}; copy the .json that belongs to the .safetensors beside it"
    if Path(source).is_file():
        return "not a model; a model is a .safetensors file with its .json beside it"
    near = get_close_matches(source, names, n=1)
    question = f"; did you mean {near[0]}?" if near else ""
    return (
        f"no model of this name{question} (shipped: {', '.join(names)}; name others by their "
        ".safetensors file or by the folder of their run)"
    )


def read_weights(source: str, card: Card) -> bytes:
    """Read the weights and check their SHA-256 against `card`. Raises `ModelError`."""
    weights, _ = locate(source)
    try:
        content = read_regular(weights, MOST_WEIGHTS)
    except FileNotFoundError as error:
        raise ModelError(
            f"{weights}: no such file, but its card exists; copy the weights beside it"
        ) from error
    except OSError as error:
        raise ModelError(f"{weights}: cannot be read: {error.strerror}") from error
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != card.weights_sha256:
        raise ModelError(
            f"{weights}: SHA-256 {sha256[:12]}... is not its card's {card.weights_sha256[:12]}...; "
            "the file is damaged or belongs to another card, copy both again"
        )
    return content


def write_card(path: Path, card: Card) -> None:
    """Replace the card at `path` (.json). Raises `WriteError`."""
    with replacing(path) as beside:
        beside.write_bytes(encoded(card))


def encoded(card: Card) -> bytes:
    """The card as its file holds it."""
    return card.model_dump_json(indent=2).encode() + b"\n"
