"""What a map records about itself, as strict JSON, and how two records differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None


def strict(value: Mapping[str, JSON]) -> dict[str, Any]:
    """As it reads back from the file; NaN and what JSON lacks are refused with ValueError."""
    return cast("dict[str, Any]", json.loads(json.dumps(value, allow_nan=False)))


def differences(there: Mapping[str, JSON], here: Mapping[str, JSON]) -> list[str]:
    """A line for each setting that differs, nested ones by their path.

    >>> differences({"model": {"sha256": "ab", "name": "x"}}, {"model": {"sha256": "cd"}})
    ['model.name: "x" there, absent here', 'model.sha256: "ab" there, "cd" here']
    """
    old, new = flat(strict(there)), flat(strict(here))
    return [
        f"{key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} here"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def flat(settings: Mapping[str, JSON], prefix: str = "") -> dict[str, str]:
    """Nested settings by their path, the values in JSON.

    >>> flat({"plan": {"cells": [{"kind": "normal"}], "mean": [0.7, 0.5]}, "clip": None})
    {'plan.cells.0.kind': '"normal"', 'plan.mean': '[0.7, 0.5]', 'clip': 'null'}
    """
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(i): item for i, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = json.dumps(value, default=str)
    return found
