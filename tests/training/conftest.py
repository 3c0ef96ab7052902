"""Fixtures of the tests of training."""

from __future__ import annotations

import pytest


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without pictures, which take most of a tiny run's time.

    A module's fixtures are built before it, so a run that one of them holds has its pictures.
    """
    monkeypatch.setattr("slidescan_train.runs.run_folder.RunFolder._draw", lambda *_: None)
