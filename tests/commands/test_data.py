"""`slidescan data`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import patches
import pytest
from click.testing import CliRunner
from labelled_patches import FEW, TRAINING, VALIDATION, cached, groups, spoil
from PIL import Image

from slidescan.cli import main
from slidescan.patches.labelled.patches import Patches
from slidescan.patches.labelled.summary import measure


def slidescan_data(*args: object) -> Any:
    return CliRunner().invoke(main, ["data", *map(str, args)])


def test_the_command_shows_what_is_there(kaggle: Path, tmp_path: Path) -> None:
    out = tmp_path / "data.png"
    result = slidescan_data(kaggle, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""  # no terminal, no bar
    for part in (
        f"{kaggle}: PatchCamelyon, Kaggle edition",
        "patches     120: 60 normal, 60 tumour (50.0%)",
        f"training    {len(TRAINING)}: ",
        f"validation  {len(VALIDATION)}: ",
        "split       validation: SHA-256(id)",
        "sizes       120 of 96 x 96 px",
        "colours     mean [0.",
        "defects     none",
        f"cache       {cached(kaggle)}",
    ):
        assert part in result.stdout
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.width > 900


def test_the_command_describes_images_without_labels(tmp_path: Path) -> None:
    root = tmp_path / "images"
    patches.write(tmp_path / "pcam", patches.make(6)).joinpath("train").rename(root)
    first = min(root.iterdir())
    shutil.copy(first, root / "again.tif")
    (root / "inner").mkdir()
    Image.new("RGB", (64, 96)).save(root / "inner" / "small.png")
    out = tmp_path / "data.png"
    result = slidescan_data(root, "--out", out, "--report", tmp_path / "defects.csv")
    assert result.exit_code == 0, result.output
    for part in (
        f"{root}: images without labels",
        "patches     8\n",
        "labels      none: slidescan predict scores them",
        "sizes       7 of 96 x 96 px, 1 of 64 x 96 px",
        "defects     1 size, 1 duplicate",
    ):
        assert part in result.stdout
    assert out.exists()
    assert "inner/small.png" in (tmp_path / "defects.csv").read_text()
    listed = slidescan_data(root, "--out", out, "--groups", tmp_path / "groups.csv")
    assert listed.exit_code == 1
    assert "leave out --ids and --groups" in listed.stderr


def test_the_command_fails_where_training_would(few: Path, tmp_path: Path) -> None:
    spoil(few)
    report = tmp_path / "defects.csv"
    listed = tmp_path / "ids.txt"
    result = slidescan_data(few, "--out", tmp_path / "data.png", "--report", report)
    assert result.exit_code == 1
    error = result.stderr.strip()
    assert "\n" not in error
    assert f"Error: {few}: 10 defects" in error
    assert str(report) in error
    assert report.read_text().count("\n") == 11
    for part in ("1 of 96 x 50 px", "  duplicate: the same pixels", f"    same is {FEW.ids[6]}"):
        assert part in result.stdout
    listed.write_text("\n".join(FEW.ids[10:13]))
    result = slidescan_data(few, "--out", tmp_path / "data.png", "--ids", listed)
    assert result.exit_code == 1
    assert "do not have both labels" in result.stderr
    assert "patches     3: " in result.stdout


def test_the_command_divides_by_slide(kaggle: Path, tmp_path: Path) -> None:
    table = groups(tmp_path / "groups.csv", [i // 8 for i in range(120)])
    result = slidescan_data(kaggle, "--out", tmp_path / "data.png", "--groups", table)
    assert result.exit_code == 0, result.output
    assert "validation: 2 of 15 slides" in result.stdout


def test_the_command_writes_where_it_can(kaggle: Path, tmp_path: Path) -> None:
    result = slidescan_data(kaggle, "--out", tmp_path / "no" / "data.png")
    assert result.exit_code == 1
    assert "there is no folder" in result.stderr


def test_colours_are_those_of_all_pixels() -> None:
    pixels = np.zeros((4, 96, 96, 3), np.uint8)
    pixels[0] = 255
    pixels[1, :48] = (255, 0, 0)
    pixels[2] = (230, 230, 200)  # not white in blue
    colours = measure(Patches.of(("a", "b", "c", "d"), pixels, np.array([0, 0, 1, 1])))
    flat = pixels.reshape(-1, 3) / 255
    assert colours.mean == pytest.approx(flat.mean(axis=0))
    assert colours.std == pytest.approx(flat.std(axis=0))
    assert (colours.white, colours.glass, colours.patches) == (0.25, 0.25, 4)
