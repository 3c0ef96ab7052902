"""A model on disk: weights (safetensors) and their card (JSON) side by side. Never a pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from slidescan.errors import ConfigError, ModelError
from slidescan.models.card import (
    DEFAULT,
    Ancestor,
    Calibration,
    Card,
    encoded,
    locate,
    read_card,
    read_weights,
    shipped,
)
from slidescan.networks.network import Network
from slidescan.tools.atomic_files import replacing
from slidescan.tools.settings_diff import JSON

__all__ = ["DEFAULT", "Calibration", "Card", "Model", "load", "save", "shipped", "weights_sha256"]

OF_THE_NETWORK = frozenset(
    ("name", "plan", "calibration", "field_px", "stride_px", "parameters", "weights_sha256")
)
"""Fields of the card that `save` fills in."""


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

    @property
    def sha256(self) -> str:
        """Of its weights, and of its calibration where it has one."""
        known = {key: value for key, value in self.identity.items() if key != "name"}
        if known.keys() == {"sha256"}:
            return self.card.weights_sha256
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    @property
    def ancestor(self) -> Ancestor:
        """What the card of a model made from this one says of it."""
        told = {key: getattr(self.card, key) for key in Ancestor.model_fields if key != "sha256"}
        return Ancestor(sha256=self.sha256, **told)


def load(source: str) -> Model:
    """Load a shipped model by its name, or `FILE.safetensors` with `FILE.json` beside it.

    Raises `ModelError` where either is missing or damaged, or the two do not belong together.
    """
    card = read_card(source)
    content = read_weights(source, card)
    weights, path = locate(source)
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
            f"{path}: says field {card.field_px} px and stride {card.stride_px} px, its plan "
            f"gives {field.size} and {field.stride}"
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
            "parameters": sum(p.numel() for p in network.parameters()),
            "weights_sha256": hashlib.sha256(content).hexdigest(),
            **about,
        }
    )
    # Left in reverse order, and not before both are written: a full disk replaces neither.
    with (
        replacing(path.with_suffix(".json")) as card_beside,
        replacing(path.with_suffix(".safetensors")) as weights_beside,
    ):
        card_beside.write_bytes(encoded(card))
        weights_beside.write_bytes(content)
    return card
