"""Which models made a map or a table: what their records say, and how two records compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from slidescan.models.card import DEFAULT, Card, read_card, shipped_names
from slidescan.tools.settings_diff import JSON


def identity_of(card: Card) -> dict[str, JSON]:
    """The name, and what the numbers depend on: the weights and any calibration."""
    found: dict[str, JSON] = {"name": card.name, "sha256": card.weights_sha256}
    if by := card.calibration:
        knots = by.isotonic and hashlib.sha256(json.dumps(by.isotonic).encode()).hexdigest()
        found["calibration"] = {"temperature": by.temperature, "isotonic_sha256": knots}
    return found


def key(identity: Mapping[str, Any]) -> str:
    """Everything that determines a model's numbers, without its name.

    `identity` is that of `identity_of`.
    """
    return json.dumps({k: identity[k] for k in ("sha256", "calibration") if k in identity})


def same_models(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records are of the same models, whatever their names."""
    return {key(m) for m in members(one)} == {key(m) for m in members(other)}


def shipped_models(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The models of a record by name; the default model if one of them is not shipped.

    >>> shipped_models({"model": {"name": "fast", "sha256": "0123456789abcdef"}})
    ('fast',)
    """
    names = tuple(member["name"] for member in members(record))
    return names if set(names) <= set(shipped_names()) else (DEFAULT,)


def described(record: Mapping[str, Any]) -> str:
    """The models of a record, for an error message.

    >>> described({"model": {"name": "default", "sha256": "0123456789abcdef"}})
    'default of SHA-256 0123456789ab...'
    """
    return " and ".join(
        f"{member['name']} of SHA-256 {member['sha256'][:12]}..."
        + (", calibrated" if "calibration" in member else "")
        for member in members(record)
    )


def members(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The identity of each model of a record."""
    found: list[dict[str, Any]] = record["model"].get("members", [record["model"]])
    return found


def find_card(identity: Mapping[str, Any], sources: Sequence[str] = ()) -> Card | None:
    """The card of a model by its identity: one of `sources`, or the shipped model of its name.

    Raises ModelError where a source has no readable card.
    """
    shipped = [name for name in shipped_names() if name == identity["name"]]
    for source in (*sources, *shipped):
        card = read_card(source)
        if key(identity_of(card)) == key(identity):
            return card
    return None
