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


def save(path: Path, network: Network, **card: object) -> Path:
    """Write weights and a card, and return `path`. `card` replaces values of CARD."""
    model.save(path, network, **CARD | card)
    return path
