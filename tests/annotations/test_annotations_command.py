"""`slidescan annotations`: tables, masks, conversion, and errors of one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from annotation_files import BOW_TIE, FORMS, HOLE, SQUARE, feature, labels, ncrf, polygon
from click.testing import CliRunner, Result
from PIL import Image

from slidescan.annotations.rasters import rasterise
from slidescan.annotations.reading import load_annotations
from slidescan.cli import main


def run(*arguments: object) -> Result:
    """Run `slidescan annotations ARGUMENTS`; an exception is raised here."""
    words = ["annotations", *map(str, arguments)]
    return CliRunner().invoke(main, words, catch_exceptions=False)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    path = tmp_path / "drawn.xml"
    path.write_text(FORMS["asap"], encoding="utf-8")
    return path


def test_show_lists_regions_classes_areas_and_problems(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(ncrf([SQUARE, BOW_TIE], [HOLE]), encoding="utf-8")
    result = run("show", path, "--slide-mpp", 10)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["region", "class", "vertices", "holes", "mm2"]
    assert lines[1].split() == ["positive", "0", "tumour", "5", "0", "1.0000"]
    assert "excluded: 1 region, 0.0400 mm2" in lines
    assert lines[-1] == "problem: positive 1: self-intersection at (50, 50): repaired, 2 polygons"
    assert "Mpx" in run("show", path).stdout


def test_show_says_what_lies_outside_the_slide(section: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(ncrf([[(800, 600), (1000, 600), (1000, 650)]]), encoding="utf-8")
    result = run("show", path, "--slide", section)
    assert "2 of 4 vertices outside the slide of 900 x 700 px" in result.stdout
    assert "mm2" in result.stdout


@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_rasterise_makes_the_mask_of_the_tumour(drawn: Path, suffix: str) -> None:
    out = drawn.with_name(f"mask.{suffix}")
    size = ("--size", 401, 130, "--slide-mpp", 0.25)
    result = run("rasterise", drawn, *size, "--mpp", 1, "--out", out)
    assert result.exit_code == 0, result.stderr
    mask = np.load(out) if suffix == "npy" else np.asarray(Image.open(out)) == 255
    expected = rasterise(load_annotations(drawn).tumour(), (33, 101), (4, 4))
    assert np.array_equal(mask, expected)
    cells = (9600 + 1600) / 16
    assert mask.sum() == pytest.approx(cells, rel=0.05)
    share = f"{expected.mean():.4%}"
    assert f"101 x 33 cells of 1 um, tumour {share}" in result.stdout
    assert "2 lesions" in result.stdout


def test_rasterise_takes_size_and_resolution_from_the_slide(drawn: Path, section: Path) -> None:
    out = drawn.with_name("mask.npy")
    result = run("rasterise", drawn, "--slide", section, "--out", out)
    assert result.exit_code == 0, result.stderr
    # 900 x 700 px at 0.972 um/px, in the cells of 8 px of a map.
    assert np.load(out).shape == (88, 113)
    assert np.load(out)[2:15, 1:14].mean() > 0.9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "give either --slide"),
        (("--slide", "s.tif", "--size", 9, 9), "give either --slide"),
        (("--size", 9, 9), "needs --slide-mpp"),
        (("--size", 9, 9, "--slide-mpp", "nan"), "nan is not a number"),
        (("--size", 9, 9, "--slide-mpp", 1, "--mpp", 0), "0.01"),
        (("--size", 0, 9, "--slide-mpp", 1), "--size"),
    ],
)
def test_rasterise_refuses_half_a_slide(drawn: Path, options: tuple[Any, ...], words: str) -> None:
    result = run("rasterise", drawn, *options, "--out", drawn.with_name("m.png"))
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize(
    ("name", "words"), [("mask.jpg", "a mask is .png"), ("none/mask.png", "there is no folder")]
)
def test_rasterise_refuses_an_out_it_cannot_write(drawn: Path, name: str, words: str) -> None:
    size = ("--size", 401, 130, "--slide-mpp", 0.25)
    result = run("rasterise", drawn, *size, "--out", drawn.parent / name)
    assert result.exit_code == 1
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [each.name for each in drawn.parent.iterdir()] == ["drawn.xml"]


def test_rasterise_refuses_a_mask_beyond_all_slides(drawn: Path) -> None:
    size = ("--size", 10_000_000, 130, "--slide-mpp", 100, "--mpp", 0.01)
    result = run("rasterise", drawn, *size, "--out", drawn.with_name("m.tif"))
    assert result.exit_code == 1
    assert "too large; pass a larger --mpp" in result.stderr
    assert not drawn.with_name("m.tif").exists()


def test_rasterise_of_another_slides_annotations_writes_nothing(drawn: Path) -> None:
    size = ("--size", 200, 200, "--slide-mpp", 0.25)
    result = run("rasterise", drawn, *size, "--out", drawn.with_name("m.png"))
    assert result.exit_code == 1
    assert "another slide" in result.stderr
    assert not drawn.with_name("m.png").exists()


def test_the_mask_says_what_is_not_in_it(tmp_path: Path) -> None:
    path, out = tmp_path / "a.geojson", tmp_path / "mask.png"
    path.write_text(json.dumps([feature(polygon(SQUARE), "Carcinoma")]))
    size = ("--size", 401, 130, "--slide-mpp", 0.25, "--mpp", 1, "--out", out)
    result = run("rasterise", path, *size)
    assert "not in the mask: 1 of class 'carcinoma'; --tumour-class" in result.stderr
    assert not np.asarray(Image.open(out)).any()
    result = run("rasterise", path, *size, "--tumour-class", "carcinoma")
    assert result.stderr == ""
    assert np.asarray(Image.open(out)).any()
    assert "not counted as tumour: 1 of class 'carcinoma'" in run("show", path).stdout


def test_a_slide_without_resolution_asks_for_the_slides_own(
    drawn: Path, slide_folder: Path
) -> None:
    slide, out = slide_folder / "no-mpp.tif", drawn.with_name("m.npy")
    result = run("rasterise", drawn, "--slide", slide, "--mpp", 1, "--out", out)
    assert result.exit_code == 1
    assert "--slide-mpp" in result.stderr
    assert " --mpp" not in result.stderr


def test_slide_and_annotations_in_each_others_place_are_refused(drawn: Path, section: Path) -> None:
    result = run("show", section, "--slide", drawn)
    assert result.exit_code == 1
    assert "FILE is for them" in result.stderr
    result = run("show", section)
    assert result.exit_code == 1
    assert "expected annotations of ASAP" in result.stderr


def test_convert_gives_geojson_that_reads_the_same(drawn: Path) -> None:
    out = drawn.with_name("out.geojson")
    assert run("convert", drawn, "--out", out).exit_code == 0
    before, after = load_annotations(drawn), load_annotations(out)
    assert after.problems == ()
    assert labels(after) == labels(before)
    assert [each.name for each in after.regions] == [each.name for each in before.regions]
    assert shapely.MultiPolygon(after.tumour()).equals(shapely.MultiPolygon(before.tumour()))
    # QuPath refuses a class without a colour (PathClassTypeAdapter, from 0.4 on).
    classes = [
        each["properties"]["classification"] for each in json.loads(out.read_text())["features"]
    ]
    assert all(len(each["color"]) == 3 for each in classes)
