"""`slidescan verify` and `slidescan export png` on maps that are right, wrong or unfinished."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slides
import zarr
from click.testing import Result
from commands import ran, refused, run
from maps import FEW, ONE, TORCH, read
from PIL import Image

from slidescan.geometry import Box
from slidescan.maps.store import Heatmap
from slidescan.pictures.overlay import Look, Sheet, colourise, spread

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
    assert line == f"{out}: 300 x 234 px at 2.92 um/px, level-0 x=0, y=0, 900 x 702 px\n"
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
    refused(png(taken), taken, "is a folder")
    taken.rmdir()
    refused(png(tmp_path / "map.jpg"), "map.jpg", "map.png")
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


def test_strips_join_without_a_seam() -> None:
    """Also along the outline, which depends on the row above."""
    rgb = slides.noise(40, 60)
    probability = np.full((40, 60), np.nan, np.float32)
    probability[10:, 20:50] = np.linspace(0, 1, 30, dtype=np.float32)
    whole = colourise(rgb, probability)
    for y in (9, 10, 11, 25):
        above = probability[y - 1]
        np.testing.assert_array_equal(
            colourise(rgb[y:], probability[y:], above=above), whole[y:], err_msg=str(y)
        )


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
    rgb, parts = slides.noise(90, 310), Sheet((90, 310), 2, um_per_px)
    laid = colourise(rgb, np.full((90, 310), np.nan, np.float32))
    for y in (0, 40):
        parts.paste(0, y, rgb[y:])
        parts.paste(1, y, laid[y:])
    sheet = np.asarray(parts.finish("title", Look()))
    np.testing.assert_array_equal(sheet[:90, :310], rgb)
    np.testing.assert_array_equal(sheet[:90, -310:], rgb)
    bar = (sheet[90 + 14, :310] == 0).all(axis=-1).sum()
    assert 0.05 * 310 < bar < 0.3 * 310
