"""The whole program through its command line: maps that are right, errors in one line."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import safetensors.torch
import slides
import torch
import zarr
from click.testing import Result
from commands import ran, refused, run
from maps import read
from numpy.typing import NDArray
from PIL import Image

from slidescan.cli import COMMANDS
from slidescan.commands import terminal
from slidescan.geometry import Box
from slidescan.maps.store import Heatmap
from slidescan.models.model import load
from slidescan.networks.network import probability
from slidescan.pictures.overlay import colourise, picture, spread
from slidescan.scanning import pipeline
from slidescan.slides import properties
from slidescan.slides.slide import Slide

ONE = ("--threads", "1")  # on busy cores two wait for each other
TORCH = ("--engine", "torch", *ONE)
FEW = ("--cells", "32", *ONE)
GLASS, STAIN = 243, (150, 60, 140)


def nothing_whole(out: Path) -> None:
    """`out` is not there, or no command takes it for a map."""
    if out.exists():
        assert not Heatmap.open(out).complete
    assert not list(out.parent.glob(".*")), "leftovers"


@pytest.fixture(scope="module")
def scanned(section: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The section's map by torch; read-only by agreement."""
    out = tmp_path_factory.mktemp("scanned") / "map.zarr"
    ran("heatmap", section, "--out", out, "--model", tiny_model, *TORCH)
    return out


@pytest.fixture
def scratch(scanned: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(scanned, tmp_path / "map.zarr"))


# --- help


@pytest.mark.parametrize(
    "command", [(), *((name,) for name in COMMANDS), ("export", "png")], ids=" ".join
)
def test_help(command: tuple[str, ...]) -> None:
    for flag in ("--help", "-h"):
        result = ran(*command, flag)
        assert result.stdout.startswith("Usage: ")
        assert "--help" in result.stdout


def test_help_loads_nothing_heavy() -> None:
    code = f"""
import sys
from click.testing import CliRunner
from slidescan.cli import main
for command in [], *([name] for name in {COMMANDS}), ["export", "png"]:
    assert CliRunner().invoke(main, [*command, "--help"]).exit_code == 0
heavy = "torch zarr openslide openvino numpy scipy skimage PIL pydantic albumentations".split()
print(*(name for name in heavy if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_version_and_unknown_words() -> None:
    assert ran("--version").stdout.startswith("slidescan")
    for wrong in (
        ["frobnicate"],
        ["heatmap"],
        ["heatmap", "a.svs"],
        ["heatmap", "a.svs", "--out", "b", "--engine", "abacus"],
        ["heatmap", "a.svs", "--out", "b", "--threads", "0"],
        ["verify", "a.svs", "b", "--cells", "0"],
    ):
        assert run(*wrong).exit_code == 2


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("haetmap slide.tif", "Did you mean heatmap?"),
        ("frobnicate", "There are heatmap, verify,"),
        ("heatmap slide.tif --slide-mpp 0.25 --out map.zarr", "Did you mean --mpp?"),
        ("heatmap slide.tif --output map.zarr", "Did you mean --out?"),
        ("heatmap slide.tif --gpu --out map.zarr", "Did you mean --device cuda?"),
        ("heatmap slide.tif --strid 4 --out map.zarr", "Did you mean"),
        ("train --data pcam --epochs 3", "--set epochs=VALUE"),
        ("train --data pcam --lr 0.1", "--set learning_rate=VALUE"),
        ("train --data pcam --workers 2", "Did you mean --threads?"),
        ("verify slide.tif map.zarr --abacus", "No such option"),
    ],
)
def test_a_wrong_name_gets_the_right_one(wrong: str, hint: str) -> None:
    result = run(*wrong.split())
    assert result.exit_code == 2
    assert hint in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("verify {map} {slide}", "the two are swapped"),
        ("export png {slide} --slide {map} --out picture.png", "the two are swapped"),
        ("heatmap {map} --out again.zarr", "is a map, not a slide"),
        ("heatmap {slide} --out {folder}/map.png", "map.zarr; slidescan export png draws"),
        ("heatmap {slide} --out {folder}/map.tif", "a map is a zarr folder, not a .tif file"),
        ("heatmap {folder}/sectoin.tif --out again.zarr", "did you mean"),
        ("verify {slide} {folder}/mpa.zarr", "did you mean"),
        ("heatmap {slide} --out again.zarr --model bset", "did you mean best?"),
        ("heatmap {slide} --out again.zarr --model {folder}", "no best.json in this folder"),
        ("predict {folder}/labels.csv --out table.csv", "name the folder of its patches"),
    ],
)
def test_what_is_named_by_mistake(
    arguments: str, words: str, section: Path, scanned: Path, tmp_path: Path
) -> None:
    shutil.copy(section, tmp_path / "section.tif")
    shutil.copytree(scanned, tmp_path / "map.zarr")
    (tmp_path / "labels.csv").write_text("id,label\n")
    before = sorted(tmp_path.iterdir())
    given = {"slide": tmp_path / "section.tif", "map": tmp_path / "map.zarr", "folder": tmp_path}
    refused(run(*(word.format(**given) for word in arguments.split())), words)
    assert sorted(tmp_path.iterdir()) == before


def test_a_wrong_slide_is_told_before_what_looks_wrong_with_it(
    scanned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.tif"
    slides.write_slide(other, slides.section(300, 300, seed=1), mpp=None)
    monkeypatch.setattr(properties, "find_warnings", lambda *_, **__: ("something looks wrong",))
    refused(run("verify", other, scanned), "another slide", other)


def test_a_mistyped_path_is_refused_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    code = """
import sys
from click.testing import CliRunner
from slidescan.cli import main
for line in sys.argv[1:]:
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == 1 and "no such file" in result.output, result.output
heavy = "torch zarr openslide openvino numpy scipy skimage PIL pydantic".split()
print(*(name for name in heavy if name in sys.modules))
"""
    lines = (
        "heatmap no.tif --out no.zarr",
        "verify no.tif no.zarr",
        "export png no.zarr --slide no.tif --out no.png",
        "predict no --out no.csv",
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *lines], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


# --- progress


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_of_pixels_is_shown_in_megapixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Totals and steps are whole numbers, so it ends at its total; warnings are errors here."""
    monkeypatch.setattr(sys, "stderr", stderr := Tty())
    with terminal.bar("scanning", 1_623_040, "px") as bar:
        for _ in range(16):
            bar.update(1_623_040 // 16)
    last = stderr.getvalue().split("\r")[-1]
    assert last.startswith("scanning: 100%|")
    assert "| 1.62/1.62 Mpx [" in last
    assert "Mpx/s]" in last
    with terminal.bar("verifying", 3, "cell") as bar:
        bar.update(3)
    assert "| 3/3 cell [" in stderr.getvalue().split("\r")[-1]


# --- exactness, through the whole program


def white_around(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.pad(pixels, ((96, 96), (96, 96), (0, 0)), constant_values=255)


def patch_by_patch(pixels: NDArray[np.uint8], model: Path, cells: NDArray[np.intp]) -> Any:
    """What torch says of each patch: the 96 px centred on each cell's 8, cut by hand."""
    around, network = white_around(pixels), load(str(model)).network
    scores = []
    for some in np.array_split(cells, -(-len(cells) // 256)):
        corners = some * 8 + 4 - 48 + 96
        patches = np.stack([around[y : y + 96, x : x + 96] for y, x in corners])
        with torch.inference_mode():
            logits = network(torch.from_numpy(patches).permute(0, 3, 1, 2).float())
        scores.append(probability(logits)[:, 0, 0].numpy())
    return np.concatenate(scores)


def native(folder: Path) -> tuple[Path, NDArray[np.uint8]]:
    """A slide that is its own scan plane; neither side a multiple of the stride."""
    path = folder / "native.tif"
    (pixels,) = slides.write_slide(path, slides.section(211, 277), mpp=0.972)
    return path, pixels


def fractional(folder: Path) -> tuple[Path, NDArray[np.uint8]]:
    """A slide of 0.499 um/px, as CMU-1-Small-Region; read as one whole here, in tiles there."""
    path = folder / "fractional.tif"
    slides.write_slide(path, slides.section(411, 541), mpp=0.499)
    with Slide.open(path) as slide:
        plane = slide.plane(0.972)
        assert plane.shape_px == (211, 278)
        return path, plane.read(Box(0, 0, *plane.shape_px))


@pytest.mark.parametrize("make", [native, fractional])
@pytest.mark.usefixtures("small_blocks")
def test_every_cell_is_its_patch_with_both_engines(
    make: Callable[[Path], tuple[Path, NDArray[np.uint8]]],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "TILE_PX", 72)
    slide, pixels = make(tmp_path)
    maps = []
    for engine in ("torch", "openvino"):
        out = tmp_path / f"{engine}.zarr"
        ran("heatmap", slide, "--out", out, "--model", tiny_model, "--engine", engine, *ONE)
        maps.append(read(out))
    selected = np.isfinite(maps[0])
    np.testing.assert_array_equal(np.isfinite(maps[1]), selected)
    assert maps[0].shape == (27, 35)
    assert 400 < selected.sum() < selected.size
    patches = patch_by_patch(pixels, tiny_model, np.argwhere(selected))
    assert np.ptp(patches) > 0.05
    for values in maps:
        assert np.abs(values[selected] - patches).max() <= 1e-5
    assert np.abs(maps[0] - maps[1])[selected].max() <= 1e-4


def test_the_map_lies_on_the_slide(tiny_model: Path, tmp_path: Path) -> None:
    """One object, off every axis of symmetry: the cells that it changes are where it is."""
    y0, x0, y1, x1 = 180, 610, 250, 660  # level-0 px
    mpp, slide = 0.45, tmp_path / "slide.tif"
    pixels, maps = slides.noise(600, 840), []
    for name in ("without", "with"):
        slides.write_slide(slide, pixels, mpp=mpp)
        out = tmp_path / f"{name}.zarr"
        ran("heatmap", slide, "--out", out, "--model", tiny_model, "--no-tissue-mask", *TORCH)
        maps.append(read(out))
        pixels[y0:y1, x0:x1] = STAIN

    attributes = json.loads((out / "zarr.json").read_text())["attributes"]
    (multiscale,) = attributes["ome"]["multiscales"]
    assert [axis["name"] for axis in multiscale["axes"]] == ["y", "x"]
    assert {axis["unit"] for axis in multiscale["axes"]} == {"micrometer"}
    scale, translation = multiscale["datasets"][0]["coordinateTransformations"]
    changed = np.argwhere(maps[0] != maps[1])
    centres_um = changed * np.array(scale["scale"]) + np.array(translation["translation"])
    # Half a field of view and the resampling's support of 3 px around the object, in whole cells.
    reach_um, cell_um = (48 + 3) * 0.972, 8 * 0.972
    low = np.array([y0, x0]) * mpp - reach_um
    high = np.array([y1, x1]) * mpp + reach_um
    for near, edge, far in (
        (low, centres_um.min(axis=0), low + 2 * cell_um),
        (high - 2 * cell_um, centres_um.max(axis=0), high),
    ):
        assert (near <= edge).all()
        assert (edge <= far).all()


def test_half_precision_stays_within_its_tolerance(
    section: Path, tiny_model: Path, tmp_path: Path, scanned: Path
) -> None:
    out = tmp_path / "half.zarr"
    model = ("--model", tiny_model)
    ran("heatmap", section, "--out", out, *model, *TORCH, "--precision", "bf16")
    assert 0 < np.nanmax(np.abs(read(out) - read(scanned))) < 0.05
    assert "tolerance 0.02" in ran("verify", section, out, *model, *FEW).stdout


# --- the shipped weights


@pytest.mark.parametrize("made", ["section", "real"])
def test_the_shipped_weights(made: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The defaults from end to end: shipped model, OpenVINO, both commands."""
    if made == "real":
        slide = request.getfixturevalue("real_data") / "slides" / "cmu-1-small-region.svs"
    else:
        slide = tmp_path / "section.tif"
        slides.write_slide(slide, slides.section(500, 600), mpp=0.5)
    out = tmp_path / "map.zarr"
    ran("heatmap", slide, "--out", out)
    line = ran("verify", slide, out, "--cells", 48).stdout
    assert "48 cells scored as patches" in line
    assert "tolerance 1e-05" in line
    assert np.nanstd(read(out)) > 0.01


# --- verify


@pytest.mark.parametrize("models", [("fast",), ("default", "fast")])
def test_verify_takes_the_shipped_models_that_made_a_map(
    models: tuple[str, ...], tmp_path: Path
) -> None:
    slide, out = tmp_path / "section.tif", tmp_path / "map.zarr"
    slides.write_slide(slide, slides.section(300, 360), mpp=0.972)
    named = [each for name in models for each in ("--model", name)]
    ran("heatmap", slide, "--out", out, *named, *ONE)
    assert "32 cells scored as patches" in ran("verify", slide, out, *FEW).stdout
    refused(run("verify", slide, out, "--model", "best"), "not with best of SHA-256", "--model")


def test_verify_reports(section: Path, scanned: Path, tiny_model: Path) -> None:
    command = ("verify", section, scanned, "--model", tiny_model, *FEW)
    one = ran(*command).stdout
    assert one.count("\n") == 1
    assert f"{scanned}: 32 cells scored as patches, largest difference" in one
    assert ran(*command).stdout == one


def test_verify_finds_one_wrong_cell(section: Path, scratch: Path, tiny_model: Path) -> None:
    command = ("verify", section, scratch, "--model", tiny_model, *FEW)
    found = re.search(r"at cell \((\d+), (\d+)\)", ran(*command).stdout)
    assert found
    row, column = (int(n) for n in found.groups())  # one of those that are drawn
    values: Any = zarr.open_group(str(scratch), mode="r+")["0"]
    values[row, column] += 0.001
    refused(run(*command), "largest difference 0.001", f"({row}, {column})", "does NOT equal")
    ran(*command, "--tolerance", 0.01)
    ran(*command, "--seed", 1)  # draws others
    values[row, column] = np.nan
    refused(run(*command), scratch, "has lost blocks")


def test_verify_refuses_what_does_not_belong_together(
    section: Path, scanned: Path, tiny_model: Path, tmp_path: Path
) -> None:
    refused(run("verify", section, scanned), scanned, "SHA-256", "--model")
    other = tmp_path / "other.tif"
    slides.write_slide(other, slides.section(700, 900, seed=1), mpp=0.972, levels=(4,))
    refused(run("verify", other, scanned, "--model", tiny_model), "section.tif", other, "another")
    refused(run("verify", section, tmp_path / "no.zarr", "--model", tiny_model), "not a slidescan")
    missing = tmp_path / "no.tif"
    refused(run("verify", missing, scanned, "--model", tiny_model), missing, "no such file")


def unfinished(path: Path) -> None:
    """As a killed scan leaves it."""
    record = json.loads((path / "zarr.json").read_text())
    record["attributes"]["slidescan"]["complete"] = False
    (path / "zarr.json").write_text(json.dumps(record))


def test_an_unfinished_map_is_not_taken_for_one(
    section: Path, scratch: Path, tiny_model: Path, tmp_path: Path
) -> None:
    unfinished(scratch)
    picture = tmp_path / "map.png"
    refused(run("verify", section, scratch, "--model", tiny_model), scratch, "not finished")
    refused(run("export", "png", scratch, "--slide", section, "--out", picture), "not finished")
    assert not picture.exists()


# --- pictures


def test_export_png(section: Path, scanned: Path, tmp_path: Path) -> None:
    out = tmp_path / "map.png"
    line = ran("export", "png", scanned, "--slide", section, "--out", out, "--size", 300).stdout
    assert line == f"{out}: 300 x 234 px at 2.92 um/px\n"
    assert list(tmp_path.iterdir()) == [out]
    sheet = np.asarray(Image.open(out))
    plain, laid = sheet[:234, :300], sheet[:234, 316:616]
    heatmap = Heatmap.open(scanned)
    shown = spread(heatmap.read(heatmap.grid.cells), Box(0, 0, 234, 300), 3 / 8)
    glass = np.isnan(shown)
    rim = (laid == (0, 114, 178)).all(axis=-1)
    assert 0.005 < rim.mean() < 0.05
    np.testing.assert_array_equal(laid[glass & ~rim], plain[glass & ~rim])
    high = shown > np.nanquantile(shown, 0.9)
    assert np.nanquantile(shown, 0.9) > 0.1
    assert (laid[high] != plain[high]).any(axis=-1).mean() > 0.99
    # The slide is the slide: 3 x 3 px averaged, up to the filter.
    whole = slides.shrink(slides.section(700, 900), (234, 300)).astype(float)
    assert np.abs(whole - plain).mean() < 6


@pytest.mark.parametrize("side", [5, 30, 131])
def test_a_picture_of_a_slide_of_any_size(side: int, tiny_model: Path, tmp_path: Path) -> None:
    """Also one far smaller than a field of view, which is white outside."""
    slide, out, png = tmp_path / "small.tif", tmp_path / "map.zarr", tmp_path / "map.png"
    slides.write_slide(slide, slides.checkerboard(side + 3, side, side=16), mpp=0.972)
    model = ("--model", tiny_model)
    ran("heatmap", slide, "--out", out, *model, *TORCH, "--no-tissue-mask")
    assert read(out).shape == (-(-(side + 3) // 8), -(-side // 8))
    ran("verify", slide, out, *model, *FEW)
    ran("export", "png", out, "--slide", slide, "--out", png)
    with Image.open(png) as image:
        assert image.height > side + 3
        assert image.width > 400  # the key and the line of text are legible


def test_export_refuses(section: Path, scanned: Path, tmp_path: Path) -> None:
    def png(out: Path, slide: Path = section) -> Result:
        return run("export", "png", scanned, "--slide", slide, "--out", out, "--size", 64)

    refused(png(tmp_path / "no" / "map.png"), "no folder")
    taken = tmp_path / "taken.png"
    taken.mkdir()
    refused(png(taken), taken, "cannot be written")
    taken.rmdir()
    refused(png(tmp_path / "map.jpg"), "map.jpg", "a PNG", "map.png")
    other = tmp_path / "other.tif"
    slides.write_slide(other, slides.checkerboard(300, 300), mpp=0.972)
    refused(png(tmp_path / "map.png", other), "another slide")
    assert list(tmp_path.iterdir()) == [other]


def test_colours_grow_with_the_probability_and_spare_what_was_not_scanned() -> None:
    rgb = slides.noise(40, 60)
    probability = np.full((40, 60), np.nan, np.float32)
    probability[10:30, 20:50] = np.linspace(0, 1, 30, dtype=np.float32)
    out = colourise(rgb, probability)
    rim = (out == (0, 114, 178)).all(axis=-1)
    np.testing.assert_array_equal(
        out[np.isnan(probability) & ~rim], rgb[~rim & np.isnan(probability)]
    )
    assert rim[10, 20:50].all()
    assert rim[10:30, 20].all()
    assert rim.sum() == 2 * (20 + 30) - 1
    np.testing.assert_allclose(out[11:29, 21], rgb[11:29, 21], atol=6)  # P = 0.03: tissue shows
    change = np.abs(out.astype(int) - rgb)[11:30, 21:50].mean(axis=(0, 2))
    assert (change[20:] > 3 * change[3]).all()
    red = colourise(np.full((1, 2, 3), 255, np.uint8), np.array([[1, 1]], np.float32))[0, 0]
    assert red[0] > 1.5 * red[1]


def test_spread_shows_the_cell_that_holds_each_pixels_centre() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(
        spread(values, Box(0, 0, 4, 6), 0.5), np.kron(values, np.ones((2, 2)))
    )
    np.testing.assert_array_equal(spread(values, Box(0, 0, 1, 1), 2.0), [[4]])
    np.testing.assert_array_equal(spread(values, Box(2, 3, 4, 5), 0.5), [[4, 5], [4, 5]])
    np.testing.assert_array_equal(spread(values, Box(0, 0, 2, 3), 1.0), values)
    # The last cell may be cut by the slide's edge, and rounding must not lead beyond it.
    assert spread(values, Box(0, 0, 3, 4), 0.75).shape == (3, 4)


@pytest.mark.parametrize("um_per_px", [0.25, 0.972, 7.7, 60.0])
def test_the_picture_holds_slide_and_overlay(um_per_px: float) -> None:
    rgb = slides.noise(90, 310)
    sheet = np.asarray(picture(rgb, np.full((90, 310), np.nan, np.float32), um_per_px, "title"))
    np.testing.assert_array_equal(sheet[:90, :310], rgb)
    np.testing.assert_array_equal(sheet[:90, -310:], rgb)
    bar = (sheet[90 + 14, :310] == 0).all(axis=-1).sum()
    assert 0.05 * 310 < bar < 0.3 * 310


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
    assert "resuming, 4 of 9 blocks" in ran(*command).stdout
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
            return {row["map"]: row["status"] for row in csv.DictReader(file)}

    ran("heatmap", small, *tail)
    assert rows() == {"small.zarr": "done"}
    ran("heatmap", small, section, *tail)
    assert rows() == {"small.zarr": "done before", "section.zarr": "done"}
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
        rows = [(row["slide"], row["status"]) for row in csv.DictReader(file)]
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
    assert processes.slidescan(*command, log=log, block_cells=256, most_bytes=8000) == 1
    (line,) = log.read_text().splitlines()
    assert line.startswith("Error: ")
    assert "disk full" in line
    nothing_whole(out)
    ran(*command)
    assert read(out).tobytes() == read(scanned).tobytes()


# --- models that cannot be loaded


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    folder = tmp_path / "model"
    folder.mkdir()
    for suffix in (".safetensors", ".json"):
        shutil.copy(tiny_model.with_suffix(suffix), folder)
    return folder / tiny_model.name


def edit(card: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(card.read_text())
    change(content)
    card.write_text(json.dumps(content))


def pair(model: Path, content: bytes) -> None:
    """Other weights, and a card that says these are right."""
    model.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    edit(model.with_suffix(".json"), lambda card: card.update(weights_sha256=sha256))


def no_weights(model: Path) -> None:
    model.unlink()


def no_card(model: Path) -> None:
    model.with_suffix(".json").unlink()


def other_sha(model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-1] + b"\0")


def noise(model: Path) -> None:
    pair(model, bytes(range(256)) * 40)


def empty(model: Path) -> None:
    pair(model, b"")


def cut(model: Path) -> None:
    pair(model, model.read_bytes()[:-1000])


def other_plan(model: Path) -> None:
    def more(card: dict[str, Any]) -> None:
        card["plan"]["stem"][0]["filters"] = 5

    edit(model.with_suffix(".json"), more)


def too_deep(model: Path) -> None:
    edit(
        model.with_suffix(".json"), lambda card: card["plan"]["cells"].extend(card["plan"]["cells"])
    )


def other_stride(model: Path) -> None:
    edit(model.with_suffix(".json"), lambda card: card.update(stride_px=4))


def fewer_tensors(model: Path) -> None:
    state = safetensors.torch.load(model.read_bytes())
    # A certain one: torch does without BatchNorm's num_batches_tracked, as inference does.
    del state["body.stem.0.weight"]
    pair(model, safetensors.torch.save(state))


def not_json(model: Path) -> None:
    model.with_suffix(".json").write_bytes(b"\x80not json\n" * 10_000)


def json_cut(model: Path) -> None:
    card = model.with_suffix(".json")
    card.write_text(card.read_text()[:-20])


def unknown_key(model: Path) -> None:
    edit(model.with_suffix(".json"), lambda card: card.update(licence="none"))


def a_list(model: Path) -> None:
    model.with_suffix(".json").write_text(json.dumps(["card"] * 1000))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_weights, ["no such file", "card"]),
        (no_card, ["no model card", "copy the .json"]),
        (other_sha, ["SHA-256", "damaged"]),
        (noise, ["cannot be loaded"]),
        (empty, ["cannot be loaded"]),
        (cut, ["cannot be loaded"]),
        (other_plan, ["another architecture"]),
        (too_deep, ["margin"]),
        (other_stride, ["stride 4 px", "8"]),
        (fewer_tensors, ["another architecture"]),
        (not_json, ["not a valid model card"]),
        (json_cut, ["not a valid model card"]),
        (unknown_key, ["licence"]),
        (a_list, ["not a valid model card"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_models(
    spoil: Callable[[Path], None], words: list[str], model: Path, section: Path, tmp_path: Path
) -> None:
    spoil(model)
    out = tmp_path / "map.zarr"
    refused(run("heatmap", section, "--out", out, "--model", model), *words)
    assert not out.exists()


def test_an_unknown_model_names_the_shipped_ones(section: Path, tmp_path: Path) -> None:
    command = ("heatmap", section, "--out", tmp_path / "map.zarr", "--model", "resnet")
    refused(run(*command), "resnet", "default")


# --- settings


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--device", "abacus"), "abacus"),
        (("--device", "abacus", "--engine", "torch"), "abacus"),
        (("--device", "cuda", "--engine", "openvino"), "--engine torch"),
        (("--device", "cuda:99"), "cuda"),
        (("--device", "meta"), "meta"),
        (("--device", "mps"), "mps"),
        (("--device", "cpu:1", "--engine", "torch"), "cpu"),
        (("--engine", "openvino", "--precision", "fp16"), "fp16"),
    ],
)
def test_devices_and_precisions_that_do_not_exist(
    flags: tuple[str, ...], word: str, section: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "map.zarr"
    refused(run("heatmap", section, "--out", out, "--model", tiny_model, *flags), word)
    assert not out.exists()


def test_other_settings_into_an_existing_map(
    section: Path, scratch: Path, tiny_model: Path, tmp_path: Path
) -> None:
    command = ("heatmap", section, "--out", scratch, "--model", tiny_model)
    before = read(scratch).tobytes()
    assert "complete already" in ran(*command, *TORCH).stdout
    for flags, word in (
        ((*TORCH, "--no-tissue-mask"), "tissue_mask"),
        ((*TORCH, "--precision", "bf16"), "precision"),
        ((*TORCH, "--mpp", "0.5"), "mpp"),
        (("--engine", "openvino"), "engine"),
    ):
        refused(run(*command, *flags), scratch, word, "--overwrite")
    assert read(scratch).tobytes() == before
    ran(*command, *TORCH, "--no-tissue-mask", "--overwrite")
    assert np.isfinite(read(scratch)).all()
    assert [p.name for p in tmp_path.iterdir()] == [scratch.name]
