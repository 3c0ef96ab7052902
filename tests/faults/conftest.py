"""Fixtures of the tests of faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from cases import Inputs


@pytest.fixture(scope="session")
def inputs(section: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """What the commands read."""
    return Inputs(tmp_path_factory.mktemp("inputs"), section, tiny_model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a command; what else there is lies beside it."""
    made = tmp_path / "out"
    made.mkdir()
    return made
