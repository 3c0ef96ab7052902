"""A model on disk: weights (safetensors) and their card (JSON) side by side. Never a pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from slidescan.errors import ConfigError, ModelError
from slidescan.models.ancestors import Ancestor
from slidescan.models.card import (
    DEFAULT,
    Calibration,
    Card,
    encoded,
    locate,
    read_card,
    read_weights,
    shipped,
)
from slidescan.models.identity import identity_of
from slidescan.tools.atomic_files import replacing
from slidescan.tools.settings_diff import JSON

# torch is imported where a network is needed: an engine of a cached graph does without.
if TYPE_CHECKING:
    from slidescan.networks.network import Network

__all__ = ["DEFAULT", "Calibration", "Card", "Model", "load", "save", "shipped", "weights_sha256"]

OF_THE_NETWORK = frozenset(
    ("name", "plan", "calibration", "field_px", "stride_px", "parameters", "weights_sha256")
)
"""Fields of the card that `save` takes from the network."""


@dataclass(frozen=True)
class Model:
    """A card and its weights; the network is built when it is first asked for."""

    card: Card
    path: Path
    """The file of the weights."""
    content: bytes = field(repr=False)
    """The weights as read; their SHA-256 is the card's."""

    @cached_property
    def network(self) -> Network:
        """The network in evaluation mode. Raises `ModelError` if weights and plan do not fit."""
        return _network(self.card, self.path, self.content)

    @property
    def identity(self) -> dict[str, JSON]:
        """The name, and what the numbers depend on: the weights and any calibration."""
        return identity_of(self.card)

    @property
    def sha256(self) -> str:
        """SHA-256 of the weights and any calibration."""
        known = {key: value for key, value in self.identity.items() if key != "name"}
        if known.keys() == {"sha256"}:
            return self.card.weights_sha256
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    @property
    def ancestor(self) -> Ancestor:
        """What the card of a model that was made from this one says about it."""
        told = {key: getattr(self.card, key) for key in Ancestor.model_fields if key != "sha256"}
        return Ancestor(sha256=self.sha256, **told)


def load(source: str) -> Model:
    """Load a shipped model by name, `FILE.safetensors` with its card, or a run's folder.

    Raises `ModelError` if a file is missing or damaged, or if the SHA-256 of the weights is not the
    card's. `Model.network` checks that the weights fit the plan.
    """
    card = read_card(source)
    return Model(card, locate(source)[0], read_weights(source, card))


def _network(card: Card, weights: Path, content: bytes) -> Network:
    import safetensors.torch
    from safetensors import SafetensorError

    from slidescan.networks.network import Network

    try:
        state = safetensors.torch.load(content)
        _check_size(card, weights, sum(tensor.numel() for tensor in state.values()))
        network = Network(card.plan, card.calibration)
        network.load_state_dict(state)
    except (SafetensorError, ConfigError) as error:
        raise ModelError(f"{weights}: cannot be loaded: {error}") from error
    except RuntimeError as error:
        raise ModelError(
            f"{weights}: the weights do not fit the plan of their card: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    field = network.field
    if (field.size, field.stride) != (card.field_px, card.stride_px):
        raise ModelError(
            f"{weights.with_suffix('.json')}: says field {card.field_px} px and stride "
            f"{card.stride_px} px, its plan gives {field.size} and {field.stride}"
        )
    return network.eval().requires_grad_(False)


def _check_size(card: Card, weights: Path, held: int) -> None:
    """Refuse a plan of more parameters than the file holds, before memory is taken for them."""
    from slidescan.networks.network import body_parameters

    parameters = body_parameters(card.plan)
    if parameters > held:
        raise ModelError(
            f"{weights}: the weights do not fit the plan of their card: it has {parameters:,} "
            f"parameters, the file holds {held:,}"
        )


def _content(network: Network) -> bytes:
    import safetensors.torch

    state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    return safetensors.torch.save(state)


def weights_sha256(network: Network) -> str:
    """SHA-256 of the file that `save` would write."""
    return hashlib.sha256(_content(network)).hexdigest()


def save(path: Path, network: Network, **about: object) -> Card:
    """Write `path` (.safetensors) and its card; `about` holds the other fields of the card.

    The network's calibration, if it has one, must be a `Calibration`. The card is written last:
    weights without a card, or with an older one, do not load. Raises `WriteError`.
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
    # Renamed in reverse order and only after both are written: a full disk replaces neither.
    with (
        replacing(path.with_suffix(".json")) as card_beside,
        replacing(path.with_suffix(".safetensors")) as weights_beside,
    ):
        card_beside.write_bytes(encoded(card))
        weights_beside.write_bytes(content)
    return card
