"""Fixtures of the tests of training."""

from __future__ import annotations

from pathlib import Path

import patches
import pytest
from click.testing import Result
from learning import tiny
from training_runs import slidescan_train, write_settings

from slidescan.patches.labelled import load_data


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without pictures, which take most of a tiny run's time.

    Fixtures of a module or of all tests are built before it, so a run that one of them holds has
    its pictures.
    """
    monkeypatch.setattr("slidescan_train.runs.run_folder.RunFolder._draw", lambda *_: None)


@pytest.fixture(scope="session")
def kaggle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small data set on disk, its cache beside it."""
    folder = patches.write(tmp_path_factory.mktemp("data") / "pcam", patches.make(120))
    load_data(folder, validation=tiny().validation)
    return folder


@pytest.fixture(scope="session")
def settings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_settings(tmp_path_factory.mktemp("settings") / "tiny.yaml", epochs=2)


@pytest.fixture(scope="session")
def finished(
    kaggle: Path, settings_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result]:
    """The folder of a finished run, with its pictures, and what the command said."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, slidescan_train("--data", kaggle, "--config", settings_file, "--out", out)
