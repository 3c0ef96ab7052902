"""A slide that makes OpenSlide crash: one line, and a batch goes on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import ran, refused, run
from maps import TORCH, read

from slidescan.maps.finished import open_finished
from slidescan.scanning.manifest import read_manifest
from slidescan.slides import contained

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")


@pytest.fixture(autouse=True)
def _crashing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contained.PROCESSES, "module", "crashing_openslide")
    monkeypatch.setenv("SLIDESCAN_TEST_CRASH", "bad.tif 256 320")


@pytest.mark.slow
@pytest.mark.usefixtures("small_blocks")
def test_a_scan_survives_a_crash(section: Path, tiny_model: Path, tmp_path: Path) -> None:
    bad, out = Path(shutil.copy(section, tmp_path / "bad.tif")), tmp_path / "map.zarr"
    tail = ("--model", tiny_model, *TORCH, "--out", out)
    refused(run("heatmap", bad, *tail), "x=256, y=320", "crashed there (SIGSEGV)", "--damaged skip")
    result = ran("heatmap", bad, *tail, "--damaged", "skip", "--overwrite")
    assert "1 block of the slide, damaged or not readable" in result.stderr
    assert "crashed there (SIGSEGV)" in result.stderr
    ran("heatmap", section, "--model", tiny_model, *TORCH, "--out", tmp_path / "sound.zarr")
    values, sound = read(out), read(tmp_path / "sound.zarr")
    lost = np.isnan(values) & ~np.isnan(sound)
    assert lost.sum() == 20**2  # fields of 96 px that touch a tile of 64 px, every 8 px
    np.testing.assert_array_equal(values[~lost], sound[~lost])


def test_a_batch_goes_on(section: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder, maps = tmp_path / "slides", tmp_path / "maps"
    folder.mkdir()
    for name in ("a", "bad", "c"):
        shutil.copy(section, folder / f"{name}.tif")
    result = run("heatmap", folder, "--model", tiny_model, *TORCH, "--out", maps)
    assert result.exit_code == 1
    rows = read_manifest(maps / "manifest.csv")
    assert {name: row["state"] for name, row in rows.items()} == {
        "a.zarr": "done",
        "bad.zarr": "failed",
        "c.zarr": "done",
    }
    assert "crashed there (SIGSEGV)" in rows["bad.zarr"]["reason"]
    np.testing.assert_array_equal(read(maps / "a.zarr"), read(maps / "c.zarr"))
    assert open_finished(maps / "c.zarr").complete
