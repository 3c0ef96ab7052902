"""Slides and places that cannot be used, in one line each."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import processes
import pytest
import slides
import zarr
from commands import ran, refused, run
from maps import FEW, TORCH, nothing_whole, read

from slidescan.maps.store import Heatmap
from slidescan.scanning import pipeline

GLASS = 243


# --- slides that cannot be scanned, and some that can


def test_slides_that_are_none(slide_folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.svs"
    text.write_text("not a slide")
    empty = tmp_path / "empty.tif"
    empty.touch()
    half = Path(shutil.copy(slide_folder / "even.tif", tmp_path / "half.tif"))
    slides.truncate(half, 0.0005)
    out = tmp_path / "map.zarr"
    for slide, word in (
        (tmp_path / "no.svs", "no such file"),
        (tmp_path, "is a folder"),
        (text, "not a slide"),
        (empty, "not a slide"),
        (half, "not a slide"),
        (slide_folder / "strips.tif", "not a slide"),
    ):
        refused(run("heatmap", slide, "--out", out, "--model", tiny_model, *TORCH), slide, word)
        assert not os.path.lexists(out)


def test_resolution(slide_folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.zarr"
    tail = ("--out", out, "--model", tiny_model, *TORCH)
    no_mpp = slide_folder / "no-mpp.tif"
    refused(run("heatmap", no_mpp, *tail), no_mpp, "no resolution", "--mpp")
    for wrong in ("0", "-1", "nan", "inf"):
        refused(run("heatmap", no_mpp, *tail, "--mpp", wrong), "--mpp")
    refused(run("heatmap", no_mpp, *tail, "--mpp", 1.2), no_mpp, "0.972", "1.2", "higher power")
    assert not out.exists()
    ran("heatmap", no_mpp, *tail, "--mpp", 0.5)
    assert Heatmap.open(out).grid.extent_px == (155, 103)
    # The map remembers it.
    ran("verify", no_mpp, out, "--model", tiny_model, *FEW)
    ran("export", "png", out, "--slide", no_mpp, "--out", tmp_path / "map.png")
    refused(run("heatmap", no_mpp, *tail, "--mpp", 0.25), "other settings", "--overwrite")


def test_a_slide_without_tissue(tiny_model: Path, tmp_path: Path) -> None:
    slide, out = tmp_path / "glass.tif", tmp_path / "map.zarr"
    slides.write_slide(slide, np.full((300, 500, 3), GLASS, np.uint8), mpp=0.972)
    result = ran("heatmap", slide, "--out", out, "--model", tiny_model, *TORCH)
    assert result.stderr.splitlines() == [
        f"Warning: {slide}: no tissue found, the map is empty; --no-tissue-mask scans all the same"
    ]
    assert np.isnan(read(out)).all()
    refused(run("verify", slide, out, "--model", tiny_model), out, "no cell was scanned")
    png = tmp_path / "map.png"
    ran("export", "png", out, "--slide", slide, "--out", png)
    assert png.exists()


@pytest.mark.usefixtures("small_blocks")
def test_a_tile_in_the_middle_is_garbage(
    section: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "TILE_PX", 256)
    slide, out = Path(shutil.copy(section, tmp_path)), tmp_path / "map.zarr"
    slides.spoil_tile(slide, row=6, column=5)  # level-0 px (384, 320) on, the second row of blocks
    command = ("heatmap", slide, "--out", out, "--model", tiny_model, *TORCH)
    result = run(*command)
    refused(result, slide, "cannot read level 0", "x=320, y=384", "4 of 9 blocks are in", out)
    nothing_whole(out)
    kept = Heatmap.open(out)
    assert sum(kept.mask[b.slices].any() and kept.done(b) for b in kept.blocks()) == 4
    refused(run("verify", slide, out, "--model", tiny_model), "not finished")

    shutil.copy(section, slide)
    result = ran(*command)
    assert "resuming, 4 of 9 blocks" in result.stdout
    assert "64 finished cells that were compared are those of this file" in result.stdout
    whole = tmp_path / "whole.zarr"
    ran("heatmap", slide, "--out", whole, "--model", tiny_model, *TORCH)
    assert read(out).tobytes() == read(whole).tobytes()


def test_an_overview_that_cannot_be_read_says_how_to_go_on(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_blocks: None
) -> None:
    """With a single level finding the tissue decodes all, the damaged tile too."""
    monkeypatch.setattr(pipeline, "TILE_PX", 256)
    slide, out = tmp_path / "single.tif", tmp_path / "map.zarr"
    slides.write_slide(slide, slides.section(700, 900), mpp=0.972, levels=())
    slides.spoil_tile(slide, row=6, column=5)
    command = ("heatmap", slide, "--out", out, "--model", tiny_model, *TORCH)
    refused(run(*command), slide, "cannot read level 0", "--no-tissue-mask")
    assert not out.exists()
    refused(run(*command, "--no-tissue-mask"), "5 of 12 blocks are in", out)
    nothing_whole(out)


def test_many_slides_keep_one_manifest(section: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Rows of other commands into the same folder stay; a second run updates its own."""
    small, folder = tmp_path / "small.tif", tmp_path / "maps"
    slides.write_slide(small, slides.section(120, 150), mpp=0.972)
    tail = ("--out", folder, "--model", tiny_model, *TORCH)

    def rows() -> dict[str, str]:
        with (folder / "manifest.csv").open(newline="") as file:
            return {row["map"]: row["state"] for row in csv.DictReader(file)}

    ran("heatmap", small, *tail)
    assert rows() == {"small.zarr": "done"}
    ran("heatmap", small, section, *tail)
    assert rows() == {"small.zarr": "done", "section.zarr": "done"}
    with (folder / "manifest.csv").open(newline="") as file:
        assert all(float(row["seconds"]) > 0 for row in csv.DictReader(file))
    (folder / "manifest.csv").write_text("my own\n")
    refused(run("heatmap", small, *tail), "manifest.csv", "left alone", "--out")
    assert (folder / "manifest.csv").read_text() == "my own\n"


def test_a_slide_that_was_not_copied_whole(section: Path, tiny_model: Path, tmp_path: Path) -> None:
    slide, out = Path(shutil.copy(section, tmp_path)), tmp_path / "map.zarr"
    slides.truncate(slide, 0.5)
    refused(run("heatmap", slide, "--out", out, "--model", tiny_model, *TORCH), slide)
    nothing_whole(out)


# --- places that cannot be written


def test_bad_output_paths(section: Path, tiny_model: Path, tmp_path: Path) -> None:
    files = [tmp_path / "file.zarr", tmp_path / "file"]
    for file in files:
        file.write_text("mine")
    foreign = tmp_path / "foreign.zarr"
    foreign.mkdir()
    (foreign / "thesis.doc").write_text("mine")
    other = tmp_path / "other.zarr"
    zarr.create_group(str(other), attributes={"mine": True})
    before = sorted(tmp_path.rglob("*"))
    for out, word in (
        (tmp_path / "no" / "map.zarr", "no folder"),
        (tmp_path / "no" / "maps", "no folder"),
        (files[0], "not a slidescan map"),
        (files[1], "cannot be written"),
        (files[0] / "map.zarr", "no folder"),
        (foreign, "not a slidescan map"),
        (other, "not a slidescan map"),
    ):
        for flags in ((), ("--overwrite",)):
            command = ("heatmap", section, "--out", out, "--model", tiny_model, *TORCH, *flags)
            refused(run(*command), out, word)
    assert sorted(tmp_path.rglob("*")) == before
    assert {file.read_text() for file in [*files, foreign / "thesis.doc"]} == {"mine"}


def test_many_slides_into_a_folder(
    section: Path, scanned: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """Each is attempted; those that fail are named, and nothing else in the folder is touched."""
    folder, broken = tmp_path / "maps", tmp_path / "broken.svs"
    broken.write_text("not a slide")
    folder.mkdir()
    (folder / "thesis.doc").write_text("mine")
    command = ("heatmap", broken, section, "--out", folder, "--model", tiny_model, *TORCH)
    result = run(*command)
    assert result.exit_code == 1
    first, last = result.stderr.splitlines()
    assert first.startswith(f"Error: {broken}: not a slide")
    assert last.startswith("Error: 1 of 2 slides failed")
    assert read(folder / "section.zarr").tobytes() == read(scanned).tobytes()
    with (folder / "manifest.csv").open(newline="") as file:
        rows = [(row["slide"], row["state"]) for row in csv.DictReader(file)]
    assert rows == [(str(broken), "failed"), (str(section), "done")]
    assert "complete already" in run(*command).stdout
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["manifest.csv", "section.zarr", "thesis.doc"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_without_permission(section: Path, tiny_model: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    out = locked / "map.zarr"
    refused(run("heatmap", section, "--out", out, "--model", tiny_model, *TORCH), out, "permission")


@pytest.mark.skipif(os.name != "posix", reason="RLIMIT_FSIZE")
def test_a_full_disk(section: Path, scanned: Path, tiny_model: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "map.zarr", tmp_path / "log"
    command = ("heatmap", section, "--out", out, "--model", tiny_model, *TORCH)
    prepare = processes.fill_the_disk
    assert processes.slidescan(*command, log=log, block_cells=256, prepare=prepare) == 1
    (line,) = log.read_text().splitlines()
    assert line.startswith("Error: ")
    assert "disk full" in line
    nothing_whole(out)
    ran(*command)
    assert read(out).tobytes() == read(scanned).tobytes()


def test_pipes_devices_and_loops_in_place_of_a_slide_or_a_map(
    section: Path, tiny_model: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.svs")
    (tmp_path / "zero.svs").symlink_to("/dev/zero")
    (tmp_path / "loop.svs").symlink_to(tmp_path / "loop.svs")
    tail = ("--model", tiny_model, *TORCH)
    for name, words in (
        ("pipe.svs", "a pipe or a device"),
        ("zero.svs", "a pipe or a device"),
        ("loop.svs", "symbolic links"),
    ):
        out = tmp_path / "map.zarr"
        refused(run("heatmap", tmp_path / name, "--out", out, *tail), name, words)
    loop = tmp_path / "loop.zarr"
    loop.symlink_to(loop)
    result = run("heatmap", section, "--out", loop, *tail)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1


def test_a_list_of_patches_that_is_no_text(tiny_model: Path, tmp_path: Path) -> None:
    paths, out = tmp_path / "list.txt", tmp_path / "table.csv"
    paths.write_bytes(b"a.png\0b.png\n")
    refused(run("predict", "--list", paths, "--out", out), paths, "not a text file of paths")
    paths.unlink()
    os.mkfifo(paths)
    refused(run("predict", "--list", paths, "--out", out), paths, "a pipe or a device")
