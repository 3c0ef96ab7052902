"""A finished map is replaced only by a complete one, whenever the process is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import processes
import pytest
from processes import Strike

from slidescan.geometry import Grid
from slidescan.maps import replacement
from slidescan.maps.record import Blank
from slidescan.maps.store import Heatmap
from slidescan.tools.temporary_files import MARK

GRID = Grid((96, 96), 8, 96)
MASK = np.ones(GRID.shape, bool)


def blank(made_by: str) -> Blank:
    settings = {"made_by": made_by}
    return {"grid": GRID, "mpp": 0.972, "mask": MASK, "settings": settings, "provenance": {}}


def fill(heatmap: Heatmap, value: float) -> None:
    for block in heatmap.missing():
        heatmap.write(block, np.full(block.shape, value, np.float32))


def finished(path: Path, made_by: str, value: float) -> Path:
    with Heatmap.resume_or_create(path, **blank(made_by), overwrite=True) as heatmap:
        fill(heatmap, value)
        heatmap.finish({})
    return path


def value(path: Path) -> float:
    heatmap = Heatmap.open(path)
    assert heatmap.complete
    return float(heatmap.read(GRID.cells).max())


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return finished(tmp_path / "map.zarr", "old", 0.25)


def test_the_old_map_stays_until_the_new_one_is_complete(path: Path) -> None:
    with Heatmap.resume_or_create(path, **blank("new"), overwrite=True) as heatmap:
        assert heatmap.replaces
        fill(heatmap, 0.75)
        assert value(path) == 0.25
        heatmap.finish({})
        assert heatmap.read(GRID.cells).max() == 0.75
    assert value(path) == 0.75
    assert names(path.parent) == ["map.zarr"]
    assert Heatmap.open(path).settings == {"made_by": "new"}


def test_an_interrupted_replacement_is_resumed(path: Path) -> None:
    with Heatmap.resume_or_create(path, **blank("new"), overwrite=True) as heatmap:
        fill(heatmap, 0.75)
    assert value(path) == 0.25
    with Heatmap.resume_or_create(path, **blank("new"), overwrite=True) as heatmap:
        assert not list(heatmap.missing())
    # Other settings begin anew.
    with Heatmap.resume_or_create(path, **blank("third"), overwrite=True) as heatmap:
        assert list(heatmap.missing())
    assert value(path) == 0.25


def test_a_kill_before_the_renames(path: Path) -> None:
    new = finished(path.with_name("new.zarr"), "new", 0.75)
    new.rename(replacement.successor(path))
    Heatmap.open(path, writable=True).close()
    assert value(path) == 0.75
    assert names(path.parent) == ["map.zarr"]


def test_a_kill_between_the_renames(path: Path) -> None:
    new = finished(path.with_name("new.zarr"), "new", 0.75)
    new.rename(replacement.successor(path))
    path.rename(path.with_name(".map.zarr.old"))
    Heatmap.open(path, writable=True).close()
    assert value(path) == 0.75
    assert names(path.parent) == ["map.zarr"]


def test_a_kill_before_the_old_map_is_deleted(path: Path) -> None:
    finished(path.with_name("old.zarr"), "older", 0.5).rename(path.with_name(".map.zarr.old"))
    Heatmap.open(path, writable=True).close()
    assert value(path) == 0.25
    assert names(path.parent) == ["map.zarr"]


@pytest.mark.parametrize("complete", [True, False], ids=["replaced", "dropped"])
def test_a_kill_while_a_map_is_deleted(
    complete: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record may be gone first; then nobody can tell whose folder it is."""

    def killed(folder: Path, **_: object) -> None:
        (folder / "gone" / "zarr.json").unlink()
        raise KeyboardInterrupt

    new = finished(path.with_name("new.zarr"), "new", 0.75)
    new.rename(replacement.successor(path))
    delete = replacement.swap if complete else replacement.drop
    with monkeypatch.context() as patch:
        patch.setattr(replacement.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            delete(path)
    Heatmap.open(path, writable=True).close()
    assert value(path) == (0.75 if complete else 0.25)
    assert names(path.parent) == ["map.zarr"]


def test_a_kill_between_the_renames_of_a_map_that_is_replaced_at_once(path: Path) -> None:
    hidden = path.with_name(f".map.zarr-abcd1234{MARK}")
    hidden.mkdir()
    path.rename(hidden / "old")
    Heatmap.open(path, writable=True).close()
    assert value(path) == 0.25
    assert names(path.parent) == ["map.zarr"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")
@pytest.mark.parametrize(
    "strike",
    [
        Strike("slidescan.maps.store:Heatmap.write", 3),
        Strike("slidescan.maps.replacement:swap"),
        Strike("slidescan.maps.replacement:sync"),
    ],
    ids=["scanning", "before-the-renames", "after-the-renames"],
)
def test_a_killed_overwrite_has_one_of_the_two_maps(
    strike: Strike, section: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "map.zarr", tmp_path / "log"
    command = ("heatmap", section, "--model", tiny_model, "--engine", "torch", "--threads", 1)
    assert processes.slidescan(*command, "--out", out, log=log) == 0, log.read_text()
    before = value_of(out)
    again = (*command, "--out", out, "--overwrite")
    assert processes.slidescan(*again, log=log, strike=strike) == -signal.SIGKILL
    assert np.array_equal(value_of(out), before, equal_nan=True)
    assert processes.slidescan(*again, log=log) == 0, log.read_text()
    assert np.array_equal(value_of(out), before, equal_nan=True)
    assert names(tmp_path) == ["log", "map.zarr"]


def value_of(path: Path) -> np.ndarray:
    heatmap = Heatmap.open(path)
    assert heatmap.complete
    return heatmap.read(heatmap.grid.cells)
