"""Maps of a checkerboard slide, at two strides."""

from __future__ import annotations

from pathlib import Path

import checkers
import pytest
import slides
from checkers import Checkers

from slidescan.geometry import Box
from slidescan.slides import properties

BOUNDS = Box(205, 317, 1203, 1440)
"""What the slide's scanner says it scanned, level-0 px."""


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkerboard slide of odd sizes."""
    path = tmp_path_factory.mktemp("board") / "board.tif"
    pixels = slides.checkerboard(1327, 1501, side=checkers.SIDE_L0)
    slides.write_slide(path, pixels, mpp=0.25, levels=(4,))
    return path


@pytest.fixture(scope="session")
def board(slide: Path) -> Checkers:
    """Its map; read only."""
    return checkers.make(slide, slide.with_name("board.zarr"), stride=8)


@pytest.fixture(scope="session", params=[8, 4])
def boards(request: pytest.FixtureRequest, slide: Path) -> Checkers:
    """Its map at either of two strides; read only."""
    return checkers.make(slide, slide.with_name(f"{request.param}.zarr"), request.param)


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> Box:
    """The slide records BOUNDS, as MIRAX slides do."""
    monkeypatch.setattr(properties, "find_bounds", lambda recorded, whole: BOUNDS)
    return BOUNDS
