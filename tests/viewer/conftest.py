"""A viewer of one slide and its map."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import maps
import pytest
from commands import ran
from starlette.testclient import TestClient
from viewing import ask


@pytest.fixture(scope="session")
def scanned(section: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished map of `section`. Tests leave it as it is."""
    out = tmp_path_factory.mktemp("scanned") / "section.zarr"
    ran("heatmap", section, "--model", tiny_model, "--out", out, *maps.TORCH)
    return out


@pytest.fixture
def viewer(section: Path, scanned: Path) -> Iterator[TestClient]:
    with ask(section, scanned) as client:
        yield client
