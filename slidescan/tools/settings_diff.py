"""Settings as strict JSON, and the differences between two of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

JSON: TypeAlias = bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"] | None


def strict(value: Mapping[str, JSON]) -> dict[str, Any]:
    """Return `value` as it reads back from JSON.

    Raises ValueError or TypeError for NaN and for types that JSON lacks.
    """
    return cast("dict[str, Any]", json.loads(json.dumps(value, allow_nan=False)))


def encodable(text: str) -> str:
    r"""Text that JSON can hold: bytes of a file name that are no UTF-8 become readable escapes.

    >>> import os
    >>> print(encodable(os.fsdecode(b"schnitt-\xe4.svs")))
    schnitt-\xe4.svs
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def differences(there: Mapping[str, JSON], here: Mapping[str, JSON]) -> list[str]:
    """Return a line for each setting that differs, nested ones by their path.

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
    """Return nested settings by their path, with the values as JSON text.

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
