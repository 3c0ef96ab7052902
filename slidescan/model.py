"""A model on disk: weights (safetensors) and their card (JSON) side by side. Never a pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import safetensors.torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError

from slidescan.errors import ConfigError, ModelError, describe
from slidescan.files import replacing
from slidescan.networks import AnyPlan, Network
from slidescan.networks.calibration import LogitMap
from slidescan.networks.plan import Settings
from slidescan.record import JSON

DEFAULT = "default"
"""The shipped model that commands take unless told otherwise."""


class Validation(Settings):
    """Scores on the held-out patches."""

    patches: int
    auc: float
    accuracy: float
    nll: float


class Calibration(LogitMap):
    """What the network's logits go through, and what that was worth where it was fitted."""

    fitted_on: str
    patches: int
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float
    """Of the patches it was fitted on, so optimistic."""
    ece_cross_fitted: float | None
    """Of the same patches, each calibrated by a fit to others; None where they allow none."""


class Card(Settings):
    """What a user has to know of the weights, and what loading them checks."""

    name: str
    plan: AnyPlan
    """Architecture and normalisation."""
    field_px: int
    stride_px: int
    mpp: Annotated[float, Field(gt=0)]
    """Micrometres per pixel of the patches it was trained on."""
    weights_sha256: str
    data: str
    split: str
    validation: Validation
    teacher: str | None = None
    """The network it was distilled from."""
    calibration: Calibration | None = None
    """Part of the network that `load` builds; the weights and `validation` know nothing of it."""
    reproduce: str
    """The command that made the weights."""
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Model:
    """A network in evaluation mode and its card."""

    network: Network
    card: Card

    @property
    def identity(self) -> dict[str, JSON]:
        """Its name and what its numbers depend on: the weights and a calibration, if any."""
        found: dict[str, JSON] = {"name": self.card.name, "sha256": self.card.weights_sha256}
        if by := self.card.calibration:
            knots = by.isotonic and hashlib.sha256(json.dumps(by.isotonic).encode()).hexdigest()
            found["calibration"] = {"temperature": by.temperature, "isotonic_sha256": knots}
        return found


def shipped(name: str) -> Path:
    """The weights of a model in the package."""
    return Path(str(files("slidescan") / "weights" / f"{name}.safetensors"))


def load(source: str) -> Model:
    """Load a shipped model by its name, or `FILE.safetensors` with `FILE.json` beside it.

    Raises `ModelError` where either is missing or damaged, or the two do not belong together.
    """
    path = Path(source) if source.endswith((".safetensors", ".json")) else shipped(source)
    weights, card = path.with_suffix(".safetensors"), path.with_suffix(".json")
    return _load(weights, _read_card(card, source))


def _read_card(path: Path, source: str) -> Card:
    try:
        return Card.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        names = ", ".join(sorted(p.stem for p in shipped(DEFAULT).parent.glob("*.json")))
        raise ModelError(
            f"{source}: no model card {path}; name a shipped model ({names}) or a .safetensors "
            "file with its .json beside it"
        ) from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ModelError(f"{path}: not a valid model card: {describe(error)}") from error


def _load(weights: Path, card: Card) -> Model:
    try:
        content = weights.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{weights}: no such file, but its card is there") from error
    except OSError as error:
        raise ModelError(f"{weights}: cannot be read: {error.strerror}") from error
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != card.weights_sha256:
        raise ModelError(
            f"{weights}: SHA-256 {sha256[:12]}... is not its card's {card.weights_sha256[:12]}...; "
            "the file is damaged or belongs to another card, copy both again"
        )
    try:
        network = Network(card.plan, card.calibration)
        network.load_state_dict(safetensors.torch.load(content))
    except (SafetensorError, ConfigError) as error:
        raise ModelError(f"{weights}: cannot be loaded: {error}") from error
    except RuntimeError as error:
        raise ModelError(
            f"{weights}: weights of another architecture than its card's plan: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    field = network.field
    if (field.size, field.stride) != (card.field_px, card.stride_px):
        raise ModelError(
            f"{weights.with_suffix('.json')}: says field {card.field_px} px and stride "
            f"{card.stride_px} px, its plan gives {field.size} and {field.stride}"
        )
    return Model(network.eval().requires_grad_(False), card)


def _content(network: Network) -> bytes:
    state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    return safetensors.torch.save(state)


def weights_sha256(network: Network) -> str:
    """Of the file that `save` would write."""
    return hashlib.sha256(_content(network)).hexdigest()


def save(path: Path, network: Network, **about: object) -> Card:
    """Write `path` (.safetensors) and its card; `about` is what a card says beyond the network.

    A calibration is the network's own, a `Calibration`.

    The card goes last: weights without one, or with an older one, do not load.
    """
    content = _content(network)
    card = Card.model_validate(
        {
            "name": path.stem,
            "plan": network.plan,
            "calibration": network.calibration,
            "field_px": network.field.size,
            "stride_px": network.field.stride,
            "weights_sha256": hashlib.sha256(content).hexdigest(),
            **about,
        }
    )
    # Left in reverse order, and not before both are written: a full disk replaces neither.
    with (
        replacing(path.with_suffix(".json")) as card_beside,
        replacing(path.with_suffix(".safetensors")) as weights_beside,
    ):
        card_beside.write_bytes(card.model_dump_json(indent=2).encode() + b"\n")
        weights_beside.write_bytes(content)
    return card
