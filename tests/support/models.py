"""Model files for tests."""

from __future__ import annotations

from pathlib import Path

from slidescan.models import model
from slidescan.networks.network import Network

CARD: dict[str, object] = {
    "mpp": 0.972,
    "data": "none",
    "split": "none",
    "validation": {"patches": 1, "auc": 0.5, "accuracy": 0.5, "nll": 0.7},
    "reproduce": "pytest",
    "versions": {},
}


OPERATING: dict[str, object] = {
    "data": "noise",
    "patches": 4,
    "fingerprint": "ab" * 32,
    "points": {
        "sens90": {"threshold": 0.65, "sensitivity": 1.0, "specificity": 0.5},
        "sens95": {"threshold": 0.5, "sensitivity": 1.0, "specificity": 0.5},
        "sens99": {"threshold": 0.25, "sensitivity": 1.0, "specificity": 0.0},
    },
}
"""A table of operating points, as calibrate writes it."""


def save(path: Path, network: Network, **card: object) -> Path:
    """Write weights and a card, and return `path`. `card` replaces values of CARD."""
    model.save(path, network, **CARD | card)
    return path
