"""Patch files that are not what their names say."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import slides
from commands import ran
from PIL import Image

from slidescan.patches.decoding import Bad, read_patch
from slidescan.patches.prediction import count_grey

PIXELS = slides.section(96, 96)
ORIENTATION = 0x0112


def image(pixels: np.ndarray = PIXELS) -> Image.Image:
    return Image.fromarray(pixels)


def refusal(path: Path) -> str:
    found = read_patch(path)
    assert isinstance(found, Bad)
    return str(found)


def test_postscript_is_not_handed_to_ghostscript(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript"))
    path = tmp_path / "e.jpg"
    image().save(path, format="EPS")
    assert "not a readable image" in refusal(path)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".webp"])
def test_several_pages_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"planes{suffix}"
    planes = [image(np.roll(PIXELS, channel, axis=0)) for channel in range(3)]
    planes[0].save(path, save_all=True, append_images=planes[1:])
    assert "several images (pages)" in refusal(path)


def test_transparent_pixels_are_refused(tmp_path: Path) -> None:
    opaque = image().convert("RGBA")
    opaque.save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_patch(tmp_path / "opaque.png"), PIXELS)
    opaque.putpixel((3, 4), (0, 0, 0, 0))
    opaque.save(tmp_path / "hole.png")
    assert "transparent" in refusal(tmp_path / "hole.png")
    palette = image().convert("P")
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((0, 0)))
    assert "transparent" in refusal(tmp_path / "palette.png")


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_a_patch_is_turned_as_its_exif_data_say(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # "rotate 90 CW"
    path = tmp_path / f"turned{suffix}"
    image().save(path, exif=exif)
    np.testing.assert_array_equal(read_patch(path), np.rot90(PIXELS, -1))


def test_pipes_devices_and_sparse_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(20 * 2**30)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("pipe.png", "zero.png"):
        assert "a pipe or a device" in refusal(tmp_path / name)
    assert "21,474,836,480 bytes" in refusal(tmp_path / "sparse.png")
    assert "symbolic links" in refusal(tmp_path / "loop.png")


def test_predict_warns_of_grey_patches_and_of_subfolders(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "patches"
    (folder / "more").mkdir(parents=True)
    (folder / "empty").mkdir()
    image().save(folder / "colour.png")
    image().convert("L").save(folder / "grey.png")
    image().save(folder / "more" / "other.png")
    out = tmp_path / "table.csv"
    result = ran("predict", folder, "--model", tiny_model, "--threads", 1, "--out", out)
    below, grey = result.stderr.splitlines()
    assert "images in 1 subfolders are not scored, e.g. more" in below
    assert "1 of 2 patches that were looked at are grey" in grey


def test_glass_is_not_called_grey() -> None:
    assert count_grey(np.full((2, 96, 96, 3), 240, np.uint8)) == 0
    assert count_grey(np.empty((0, 96, 96, 3), np.uint8)) == 0
