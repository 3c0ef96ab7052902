"""Finished maps that lost a part or whose record was edited: refused in one line, or as before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slides
from commands import ran, refused, run

from slidescan.errors import SlidescanError
from slidescan.geometry import Box
from slidescan.maps.finished import EngineSettings, open_finished, settings_of
from slidescan.maps.store import Heatmap

TORCH = ("--engine", "torch", "--threads", 1)


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """slide.tif and its finished map in blocks of 32 cells and several levels; read only."""
    folder = tmp_path_factory.mktemp("finished")
    slides.write_slide(folder / "slide.tif", slides.section(700, 900), mpp=0.972, levels=(4,))
    with pytest.MonkeyPatch.context() as patch:
        for name, cells in (("layout.BLOCK", 32), ("layout.CHUNK", 16), ("ngff.LEVEL", 32)):
            patch.setattr(f"slidescan.maps.{name}_CELLS", cells)
        ran("heatmap", folder / "slide.tif", "--out", folder / "map.zarr", *TORCH,
            "--model", tiny_model)  # fmt: skip
    return folder


@pytest.fixture
def spoilt(folder: Path, tmp_path: Path) -> Path:
    """A copy of the map to spoil."""
    return Path(shutil.copytree(folder / "map.zarr", tmp_path / "map.zarr"))


def annotated(folder: Path) -> Path:
    """A folder of annotations, of another slide."""
    annotations = folder / "annotations"
    annotations.mkdir()
    (annotations / "other.json").write_text('{"positive": [], "negative": []}')
    return annotations


def read_all(path: Path) -> None:
    """Read what readers read: every level and the settings."""
    heatmap = open_finished(path)
    settings_of(heatmap, EngineSettings)
    for level, shape in enumerate(heatmap.shapes):
        heatmap.read(Box(0, 0, *shape), level)


def test_the_whole_map_is_read(spoilt: Path) -> None:
    read_all(spoilt)
    assert len(Heatmap.open(spoilt).shapes) == 3


@pytest.mark.parametrize(
    "lost",
    ["0/c/1/1", "1/c/0/1", "2/c/0/0", "labels/tissue/0/c/1/1", "labels/tissue/0", "labels/gaps/0",
     "labels", "labels/tissue/zarr.json", "labels/zarr.json", "labels/gaps/1/zarr.json",
     "0/zarr.json", "2", "zarr.json"],
)  # fmt: skip
def test_a_map_that_lost_a_part_is_refused_by_every_reader(
    folder: Path, spoilt: Path, tiny_model: Path, tmp_path: Path, lost: str
) -> None:
    part = spoilt / lost
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    slide, png = folder / "slide.tif", tmp_path / "map.png"
    annotations = annotated(tmp_path)
    refused(run("export", "png", spoilt, "--slide", slide, "--out", png), spoilt)
    refused(run("verify", slide, spoilt, "--model", tiny_model), spoilt)
    evaluation = ("evaluate", "slides", spoilt, "--annotations", annotations)
    result = run(*evaluation, "--unannotated", "normal")
    assert result.exit_code == 1
    assert str(spoilt) in result.stderr
    assert not png.exists()


@pytest.mark.parametrize("lost", ["0/c/1/1", "1/c/0/1", "2/c/0/0"])
def test_what_was_lost_is_scanned_again(
    folder: Path, spoilt: Path, tiny_model: Path, lost: str, small_blocks: None
) -> None:
    before = (spoilt / lost).read_bytes()
    (spoilt / lost).unlink()
    command = ("heatmap", folder / "slide.tif", "--out", spoilt, "--model", tiny_model, *TORCH)
    ran(*command)
    read_all(spoilt)
    assert (spoilt / lost).read_bytes() == before


def test_a_coarse_level_that_lost_values_is_not_read_as_unscanned(spoilt: Path) -> None:
    heatmap = open_finished(spoilt)
    (spoilt / "2/c/0/0").unlink()
    with pytest.raises(SlidescanError, match="level 2 has lost values"):
        heatmap.read(Box(0, 0, *heatmap.shapes[2]), 2)


@pytest.mark.parametrize(
    ("array", "key", "value"),
    [
        ("0", "shape", [88, 111]),
        ("0", "shape", [2**31, 2**31]),
        ("1", "shape", [45, 57]),
        ("labels/tissue/0", "shape", [88, 114]),
        ("0", "data_type", "float64"),
        ("labels/tissue/0", "data_type", "int16"),
        ("0", "fill_value", 0.0),
        ("0", "node_type", "group"),
        ("0", "codecs", []),
        ("0", "chunk_grid", {"name": "regular", "configuration": {"chunk_shape": [64, 64]}}),
        ("0", "chunk_grid", {"name": "regular", "configuration": {"chunk_shape": [1, 1]}}),
        ("0", "zarr_format", 2),
    ],
)
def test_edited_arrays_are_refused(spoilt: Path, array: str, key: str, value: object) -> None:
    file = spoilt / array / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(SlidescanError) as caught:
        read_all(spoilt)
    assert "\n" not in str(caught.value)


# --- the record, key by key


def keys(record: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every key and item."""
    inside = record.items() if isinstance(record, dict) else enumerate(record)
    for key, value in inside:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from keys(value, (*path, key))


DELETE = object()
WRONG = (None, "text", -1, 0, 1e300, 2**63, True, [], {}, ["x"])


def edited(content: Any, path: tuple[Any, ...], value: object) -> str:
    copy = json.loads(json.dumps(content))
    inside = copy
    for key in path[:-1]:
        inside = inside[key]
    if value is DELETE:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    return json.dumps(copy)


def one_line(read: Callable[[], object]) -> bool:
    """Whether it reads; what is refused is refused in one short line."""
    try:
        read()
    except SlidescanError as error:
        message = str(error)
    else:
        return True
    assert "\n" not in message
    assert len(message) < 1000
    return False


@pytest.mark.slow
@pytest.mark.parametrize("part", ["", "labels", "labels/tissue", "0"])
def test_every_edit_of_the_metadata_is_refused_in_one_line_or_harmless(
    folder: Path, spoilt: Path, part: str
) -> None:
    file = spoilt / part / "zarr.json"
    content = json.loads(file.read_text())
    cells = Heatmap.open(spoilt).grid.cells
    sound = Heatmap.open(spoilt).read(cells)
    refusals = 0
    for at, path in enumerate(keys(content)):
        # Each key is deleted and gets one of the values in turn.
        for value in (DELETE, WRONG[at % len(WRONG)]):
            file.write_text(edited(content, path, value))
            if one_line(lambda: read_all(spoilt)):
                np.testing.assert_array_equal(Heatmap.open(spoilt).read(cells), sound)
            else:
                refusals += 1
    assert refusals > 8


def test_a_record_that_opens_is_good_enough_for_every_command(
    folder: Path, spoilt: Path, tiny_model: Path, tmp_path: Path
) -> None:
    file = spoilt / "zarr.json"
    content = json.loads(file.read_text())
    slide, png, annotations = folder / "slide.tif", tmp_path / "map.png", annotated(tmp_path)
    commands = (
        ("export", "png", spoilt, "--slide", slide, "--out", png, "--size", 64, "--overwrite"),
        ("verify", slide, spoilt, "--model", tiny_model, "--cells", 2, *TORCH),
        ("evaluate", "slides", spoilt, "--annotations", annotations, "--unannotated", "normal",
         "--resamples", 0),
    )  # fmt: skip
    record = content["attributes"]["slidescan"]
    used = [path for path in keys(record) if path[0] not in ("provenance", "grid")]
    for path in [*used, ("provenance", "slide"), ("grid", "stride")]:
        for value in (DELETE, 3):
            file.write_text(edited(content, ("attributes", "slidescan", *path), value))
            for command in commands:
                result = run(*command)
                assert result.exit_code in (0, 1)
                if result.exit_code:
                    assert "Traceback" not in result.output
                    assert "Error: " in result.stderr
