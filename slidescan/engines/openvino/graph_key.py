"""Everything that a compiled graph depends on: the key under which it is cached."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

from slidescan.engines.openvino.engine import processor
from slidescan.engines.openvino.runtime import ov
from slidescan.models.card import Card
from slidescan.tools.hardware import instruction_sets, kernel_limit
from slidescan.tools.settings_diff import JSON

CODE = ("geometry.py", "networks", "engines/openvino")
"""The source that determines a graph: files and folders of the package."""


def graph_key(card: Card, precision: str, stride_px: int) -> dict[str, JSON]:
    """The key of a model's graph at a stride and in a precision (`backend.Arithmetic`)."""
    calibration = None
    if by := card.calibration:
        calibration = by.model_dump(mode="json", include={"temperature", "isotonic"})
    return {
        "weights": card.weights_sha256,
        "plan": card.plan.model_dump(mode="json"),
        "field_px": card.field_px,
        "native_stride_px": card.stride_px,
        "calibration": calibration,
        "stride_px": stride_px,
        "precision": precision,
        **_environment(),
    }


@cache
def _environment() -> dict[str, JSON]:
    return {
        "slidescan": version("slidescan"),
        "code": _code(),
        "torch": version("torch"),
        "openvino": ov.__version__,
        "processor": [*processor(), instruction_sets(), kernel_limit()],
    }


def _code() -> str:
    """SHA-256 of the source: a checkout's version stays the same while its code changes."""
    total = hashlib.sha256()
    for part in (Path(__file__).parents[2] / name for name in CODE):
        for file in sorted(part.glob("*.py")) if part.is_dir() else [part]:
            total.update(file.name.encode() + file.read_bytes())
    return total.hexdigest()
