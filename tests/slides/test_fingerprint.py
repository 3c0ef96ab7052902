"""What tells one slide from another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import slides
from commands import ran, refused, run
from maps import FEW, TORCH

from slidescan.maps.store import Heatmap
from slidescan.slides import fingerprint
from slidescan.slides.fingerprint import find_fingerprint, same_quickhash
from slidescan.slides.slide import Slide


def found(path: Path) -> str:
    with Slide.open(path) as slide:
        return slide.fingerprint


def other_level_0(section: Path, path: Path) -> Path:
    """A copy whose coarse level, which alone OpenSlide's quickhash covers, is the same."""
    shutil.copy(section, path)
    slides.spoil_tile(path, row=6, column=5)
    return path


def test_it_covers_the_finest_level(section: Path, tmp_path: Path) -> None:
    other = other_level_0(section, tmp_path / "other.tif")
    assert same_quickhash(found(section), found(other))
    assert found(section) != found(other)
    assert found(Path(shutil.copy(section, tmp_path / "copy.tif"))) == found(section)


def test_of_large_files_it_covers_samples_and_the_sizes_of_tiles(
    section: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(fingerprint, "SAMPLES", 2)
    monkeypatch.setattr(fingerprint, "SAMPLE_BYTES", 64)
    other = Path(shutil.copy(section, tmp_path / "other.tif"))
    slides.drop_tile(other, row=6, column=5)
    assert found(other) != found(section)


def test_slides_of_several_files_have_the_quickhash_alone(tmp_path: Path) -> None:
    recorded = {"openslide.quickhash-1": "ab", "openslide.vendor": "mirax"}
    assert find_fingerprint(tmp_path / "s.mrxs", recorded) == "quickhash-1:ab"


def test_a_finished_map_is_of_one_file(section: Path, tiny_model: Path, tmp_path: Path) -> None:
    other, out = other_level_0(section, tmp_path / "other.tif"), tmp_path / "map.zarr"
    tail = ("--out", out, "--model", tiny_model, *TORCH)
    ran("heatmap", section, *tail)
    refused(run("heatmap", other, *tail), out, "other settings", "fingerprint")
    refused(run("verify", other, out, "--model", tiny_model, *FEW), "another slide")

    # Maps of earlier versions have the first part alone.
    with Heatmap.open(out, writable=True) as heatmap:
        heatmap.change_fingerprint(found(section).partition("+")[0])
    ran("verify", section, out, "--model", tiny_model, *FEW)
    assert "complete already" in ran("heatmap", section, *tail).stdout
