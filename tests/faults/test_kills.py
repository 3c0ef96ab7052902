"""SIGKILL at random moments: what is run again ends as if nothing had happened.

`make faults` is the full form: SLIDESCAN_KILLS=200.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import maps
import numpy as np
import processes
import pytest
from PIL import Image

from slidescan.maps.store import Heatmap

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL"),
    pytest.mark.slow,
    pytest.mark.timeout(0),
]

KILLS = int(os.environ.get("SLIDESCAN_KILLS", "12"))


def campaign(command: tuple[object, ...], log: Path, seconds: float) -> tuple[int, int]:
    """Kill the command at random moments until it has been started KILLS times.

    Returns how many were killed, and how many had ended before. `seconds` is what it takes.
    """
    rng, killed = np.random.default_rng(0), 0
    for _ in range(KILLS):
        killed += processes.kill(*command, log=log, after_s=float(rng.uniform(0, seconds)))
    assert processes.slidescan(*command, log=log) == 0, log.read_text()
    return killed, KILLS - killed


def timed(command: tuple[object, ...], log: Path) -> float:
    started = time.monotonic()
    assert processes.slidescan(*command, log=log) == 0, log.read_text()
    return time.monotonic() - started


def test_scans(section: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Every run begins with the map of the one before it; a finished one is replaced."""
    out, log = tmp_path / "map.zarr", tmp_path / "log"
    command = ("heatmap", section, "--model", tiny_model, *maps.TORCH, "--overwrite", "--out", out)
    seconds = timed(command, log)
    expected = maps.contents(out)
    killed, ended = campaign(command, log, seconds)
    print(f"\nscans with --overwrite: {killed} killed, {ended} ended before")
    assert killed > 0
    assert Heatmap.open(out).complete
    assert maps.contents(out) == expected
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "map.zarr"]


def test_predictions(tiny_model: Path, tmp_path: Path) -> None:
    folder, out, log = tmp_path / "patches", tmp_path / "table.csv", tmp_path / "log"
    folder.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (400, 96, 96, 3))):
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03}.png")
    command = ("predict", folder, "--model", tiny_model, *maps.TORCH, "--out", out)
    seconds = timed(command, log)
    expected = out.read_bytes()
    out.unlink()
    killed, ended = campaign(command, log, seconds)
    print(f"\npredictions: {killed} killed, {ended} ended before")
    assert killed > 0
    assert out.read_bytes() == expected
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "patches", "table.csv"]
