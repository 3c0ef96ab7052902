"""`export png` and `jpg`: where the cells lie, at any size, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkers import Checkers, Floats, Sampler
from commands import ran, refused, run
from numpy.typing import NDArray
from PIL import Image

from slidescan.commands import options
from slidescan.geometry import Box
from slidescan.pictures import colours

PLACE = re.compile(r"level-0 x=(\S+), y=(\S+), (\S+) x (\S+) px")


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def placed(line: str) -> tuple[float, ...]:
    """(x, y, width, height) in level-0 px, as the command prints it."""
    found = PLACE.search(line)
    assert found is not None
    return tuple(map(float, found.groups()))


def sampler(picture: NDArray[np.uint8], place: tuple[float, ...]) -> Sampler:
    """Values by viridis' colours, whose entry is the nearest one."""
    (height, width), (x0, y0, across, down) = picture.shape[:2], place
    table = colours.colours("viridis").rgb.astype(int)

    def sample(x: Floats, y: Floats) -> Floats:
        column = np.floor((x - x0) / across * width).astype(int)
        row = np.floor((y - y0) / down * height).astype(int)
        found = picture[row, column, :3].astype(int)
        known, index = np.unique(found.reshape(-1, 3), axis=0, return_inverse=True)
        nearest = np.abs(known[:, None] - table).sum(axis=-1).argmin(axis=1)
        values: Floats = nearest[index.reshape(x.shape)] / 255
        return values

    return sample


MAP = ("--layout", "map", "--plain", "--colours", "viridis")


@pytest.mark.parametrize("size", [("--size", 1501), ("--width", 333), ()])
def test_a_map_alone_lies_on_the_slide(
    boards: Checkers, tmp_path: Path, size: tuple[object, ...]
) -> None:
    out = tmp_path / "map.png"
    line = ran("export", "png", boards.map_path, *MAP, *size, "--out", out).stdout
    assert boards.error_l0(sampler(pixels(out), placed(line))) <= 0.5 * boards.cell_l0 + 5


def test_with_its_slide_it_covers_what_qupath_shows(
    boards: Checkers, bounds: Box, tmp_path: Path
) -> None:
    out = tmp_path / "map.png"
    command = ("export", "png", boards.map_path, "--slide", boards.slide_path, *MAP, "--out", out)
    ran(*command, "--size", 1123)
    stretched = (bounds.x0, bounds.y0, *bounds.shape[::-1])
    assert boards.error_l0(sampler(pixels(out), stretched), bounds) <= 0.5 * boards.cell_l0 + 2


def test_a_crop_lies_on_the_slide(boards: Checkers, tmp_path: Path) -> None:
    out, crop = tmp_path / "map.png", (401, 203, 650, 527)
    command = ("export", "png", boards.map_path, *MAP, "--crop", *crop, "--out", out)
    line = ran(*command, "--width", 650).stdout
    x, y, width, height = crop
    assert placed(line) == crop
    part = Box(y, x, y + height, x + width)
    assert boards.error_l0(sampler(pixels(out), placed(line)), part) <= 0.5 * boards.cell_l0 + 1


@pytest.mark.parametrize(("size", "sharp"), [(1501, 10), (2000, None), (375, 30)])
def test_a_picture_has_the_size_and_the_detail_that_was_asked_for(
    board: Checkers, tmp_path: Path, size: int, sharp: int | None
) -> None:
    out = tmp_path / "map.png"
    command = ("export", "png", board.map_path, "--slide", board.slide_path, "--out", out)
    result = run(*command, "--layout", "overlay", "--plain", "--opacity", 0, "--size", size)
    if sharp is None:
        refused(result, "2000 px", "1501 x 1327", "--width 1501")
        return
    assert result.exit_code == 0, result.stderr
    drawn = pixels(out)
    assert drawn.shape[1] == size
    with Image.open(board.slide_path) as image:
        slide = np.asarray(image.resize(drawn.shape[1::-1], Image.Resampling.BOX))
    # At full size every pixel is the slide's own; below, they differ by the filter.
    assert np.abs(drawn.astype(int) - slide).mean() < (0.01 if size == 1501 else 3)


def test_jpeg_is_png_but_for_its_losses(board: Checkers, tmp_path: Path) -> None:
    command = ("--slide", board.slide_path, "--size", 700, "--colours", "cividis", "--out")
    ran("export", "png", board.map_path, *command, tmp_path / "map.png")
    ran("export", "jpg", board.map_path, *command, tmp_path / "map.jpg")
    exact, lossy = pixels(tmp_path / "map.png"), pixels(tmp_path / "map.jpg")
    assert exact.shape == lossy.shape
    assert np.abs(exact.astype(int) - lossy).mean() < 3
    ran("export", "jpg", board.map_path, *MAP, "--out", tmp_path / "alone.jpeg")
    assert pixels(tmp_path / "alone.jpeg").shape[2] == 3


def test_a_threshold_leaves_out_lower_cells(board: Checkers, tmp_path: Path) -> None:
    out = tmp_path / "map.png"
    command = ("export", "png", board.map_path, *MAP, "--size", 300, "--overwrite", "--out", out)
    ran(*command, "--threshold", 0.6)
    shown = pixels(out)[..., 3] == 255
    assert shown.mean() == pytest.approx(0.4, abs=0.1)  # 0.7 and 0.9 of five values
    line = ran(*command, "--threshold", 0.95).stdout
    assert "no cell" in line
    assert not pixels(out).any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--crop", 1400, 0, 200, 100), ("--crop", "1501 x 1327")),
        (("--crop", 0, 0, 0, 100), ("--crop", "X Y W H")),
        (("--crop", -5, 0, 50, 100), ("--crop", "1501 x 1327")),
        (("--layout", "map", "--size", 30000), ("too large", "--size")),
        (("--threshold", "sens95"), ("sens95", "--model")),
    ],
)
def test_bad_input_is_refused_in_one_line(
    board: Checkers, tmp_path: Path, arguments: tuple[object, ...], words: tuple[str, ...]
) -> None:
    out = tmp_path / "map.png"
    command = ("export", "png", board.map_path, "--slide", board.slide_path, "--out", out)
    refused(run(*command, *arguments), *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--threshold", "1.5"),
        ("--opacity", "2"),
        ("--colours", "jet"),
        ("--size", "100", "--width", "100"),
        ("--plain",),
        ("--crop", "1", "2"),
    ],
)
def test_wrong_usage_is_exit_code_2(board: Checkers, tmp_path: Path, arguments: object) -> None:
    out = tmp_path / "map.png"
    command = ("export", "png", board.map_path, "--slide", board.slide_path, "--out", out)
    assert run(*command, *arguments).exit_code == 2  # type: ignore[misc]
    assert run("export", "png", board.map_path, "--out", out).exit_code == 2  # no slide
    assert not list(tmp_path.iterdir())


FORMATS = (
    ("png", "map.png", ("--layout", "map")),
    ("jpg", "map.jpg", ("--layout", "map")),
    ("ome-tiff", "map.ome.tif", ()),
    ("ngff04", "map-04.zarr", ()),
)


@pytest.mark.parametrize(("name", "file", "arguments"), FORMATS)
def test_what_exists_is_replaced_on_demand_only(
    board: Checkers, tmp_path: Path, name: str, file: str, arguments: tuple[str, ...]
) -> None:
    out = tmp_path / file
    command = ("export", name, board.map_path, *arguments, "--out", out)
    ran(*command)
    before = out.stat().st_mtime_ns
    refused(run(*command), out, "exists", "--overwrite")
    assert out.stat().st_mtime_ns == before
    ran(*command, "--overwrite")
    assert [path.name for path in tmp_path.iterdir()] == [file]
    refused(run(*command[:-1], tmp_path / "map.xyz"), "map.xyz", file[file.index(".") :])
    refused(run(*command[:-1], tmp_path / "no" / file), "no folder")


@pytest.mark.parametrize(("name", "file", "arguments"), FORMATS)
def test_an_unfinished_map_is_exported_on_demand_only(
    board: Checkers, tmp_path: Path, name: str, file: str, arguments: tuple[str, ...]
) -> None:
    path, out = tmp_path / "part.zarr", tmp_path / file
    shutil.copytree(board.map_path, path)
    shutil.rmtree(path / "0" / "c")
    record = json.loads((path / "zarr.json").read_text())
    record["attributes"]["slidescan"]["complete"] = False
    (path / "zarr.json").write_text(json.dumps(record))
    command = ("export", name, path, *arguments, "--out", out)
    refused(run(*command), path, "not finished")
    assert not out.exists()
    assert "unfinished, 0.0%" in ran(*command, "--partial").stderr
    assert out.exists()


def test_an_unknown_format_lists_all(board: Checkers) -> None:
    result = run("export", "webp", board.map_path)
    assert result.exit_code == 2
    for name, *_ in FORMATS:
        assert name in result.stderr


def test_help_names_the_colours_there_are() -> None:
    assert options.COLOURS == colours.NAMES
