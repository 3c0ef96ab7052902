"""Colours by name: those of matplotlib, even in lightness."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from skimage.color import rgb2lab

from slidescan.pictures.colours import NAMES, STEPS, colours

EVEN = [name for name in NAMES if name != "heat"]


@pytest.mark.parametrize("name", EVEN)
def test_they_are_matplotlibs(name: str) -> None:
    expected = matplotlib.colormaps[name](np.arange(STEPS) / (STEPS - 1))[:, :3] * 255
    assert np.abs(colours(name).rgb - expected).max() < 4.5


@pytest.mark.parametrize("name", EVEN)
def test_lightness_grows_with_the_probability(name: str) -> None:
    """So that they are read without seeing hues, and printed in grey."""
    lightness = rgb2lab(colours(name).rgb[None])[0, :, 0]
    assert (np.diff(lightness[::8]) > 0.4).all()


def test_entries_are_the_nearest_and_spare_nothing() -> None:
    p = np.array([0, 0.001, 0.0021, 0.5, 1, np.nan], np.float32)
    assert colours("viridis").entries(p).tolist() == [0, 0, 1, 128, 255, 0]
