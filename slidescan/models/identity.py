"""Which models made a map or a table: what their records say, and how two records compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from slidescan.models.card import DEFAULT, shipped_names


def key(identity: Mapping[str, Any]) -> str:
    """Everything that determines a model's numbers, without its name.

    `identity` is that of `Model.identity`.
    """
    return json.dumps({k: identity[k] for k in ("sha256", "calibration") if k in identity})


def same_models(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records are of the same models, whatever their names."""
    return {key(m) for m in _members(one)} == {key(m) for m in _members(other)}


def shipped_models(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The models of a record by name; the default model if one of them is not shipped.

    >>> shipped_models({"model": {"name": "fast", "sha256": "0123456789abcdef"}})
    ('fast',)
    """
    names = tuple(member["name"] for member in _members(record))
    return names if set(names) <= set(shipped_names()) else (DEFAULT,)


def described(record: Mapping[str, Any]) -> str:
    """The models of a record, for an error message.

    >>> described({"model": {"name": "default", "sha256": "0123456789abcdef"}})
    'default of SHA-256 0123456789ab...'
    """
    return " and ".join(
        f"{member['name']} of SHA-256 {member['sha256'][:12]}..."
        + (", calibrated" if "calibration" in member else "")
        for member in _members(record)
    )


def _members(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = record["model"].get("members", [record["model"]])
    return found
