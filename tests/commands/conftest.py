"""Labelled patches, and a map that several test modules read or spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import ran
from labelled_patches import few, kaggle
from maps import TORCH

__all__ = ["few", "kaggle"]


@pytest.fixture(scope="session")
def scanned(section: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The section's map by torch; read-only by agreement."""
    out = tmp_path_factory.mktemp("scanned") / "map.zarr"
    ran("heatmap", section, "--out", out, "--model", tiny_model, *TORCH)
    return out


@pytest.fixture
def scratch(scanned: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(scanned, tmp_path / "map.zarr"))
