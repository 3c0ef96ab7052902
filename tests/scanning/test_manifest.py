"""The manifest of a folder of maps."""

from __future__ import annotations

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slidescan.errors import SlidescanError, WriteError
from slidescan.scanning import manifest
from slidescan.scanning.manifest import COLUMNS, Manifest, read_manifest
from slidescan.tools import atomic_files


def test_rows_come_back_with_all_columns(tmp_path: Path) -> None:
    written = Manifest(tmp_path)
    written.record("a.zarr", {"slide": "/a.svs", "state": "failed", "reason": 'two\nlines, "x"'})
    written.record("a.zarr", {"state": "done", "reason": "", "group": "A"})
    written.record("b.zarr", {"slide": "/b.svs", "state": "waiting"})
    written.flush()
    rows = read_manifest(tmp_path / "manifest.csv")
    assert list(rows["a.zarr"]) == [*COLUMNS, "group"]
    assert rows["a.zarr"]["state"] == "done"
    assert rows["b.zarr"]["group"] == ""
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.csv"]


def test_the_manifest_of_the_first_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "manifest.csv").write_text(
        "slide,map,status,message,rows,columns,scanned,seconds\n"
        "a.svs,a.zarr,done before,,10,20,100,3.5\n"
        "b.svs,b.zarr,failed,no such file,,,,\n"
    )
    (tmp_path / "a.svs").touch()
    done, failed = read_manifest(tmp_path / "manifest.csv").values()
    assert (done["state"], done["slide"]) == ("done", str(tmp_path / "a.svs"))
    assert (done["rows"], done["columns"], done["seconds"]) == ("10", "20", "3.5")
    assert (failed["state"], failed["reason"]) == ("failed", "no such file")


@pytest.mark.parametrize("text", ["my own\n", "slide,map\na,b\n", ""])
def test_a_file_that_is_no_manifest(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(SlidescanError, match="left alone"):
        Manifest(tmp_path).edit(lambda rows: None)
    assert (tmp_path / "manifest.csv").read_text() == text


def test_several_writers_lose_nothing(tmp_path: Path) -> None:
    def write(number: int) -> None:
        mine = Manifest(tmp_path)
        for slide in range(5):
            mine.record(f"{number}-{slide}.zarr", {"slide": f"/{number}-{slide}", "state": "done"})
        mine.flush()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(read_manifest(tmp_path / "manifest.csv")) == 20


def test_writes_take_a_small_share_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writes at most: the first, and one at the end."""
    writes: list[int] = []
    written, original = Manifest(tmp_path), manifest._write
    monkeypatch.setattr(manifest, "BUSY_SHARE", 1e-6)
    monkeypatch.setattr(manifest, "_write", lambda path, rows: writes.append(original(path, rows)))
    for number in range(50):
        written.record(f"{number}.zarr", {"slide": f"/{number}", "state": "done"})
    written.flush()
    assert len(writes) == 2
    assert len(read_manifest(tmp_path / "manifest.csv")) == 50


def test_a_write_that_fails_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    written = Manifest(tmp_path)
    written.record("a.zarr", {"slide": "/a", "state": "done"})
    before = (tmp_path / "manifest.csv").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(atomic_files, "sync", full)
        patch.setattr(manifest, "BUSY_SHARE", 1e9)
        written.record("b.zarr", {"slide": "/b", "state": "done"})
        with pytest.raises(WriteError, match="disk full"):
            written.flush()
    assert (tmp_path / "manifest.csv").read_bytes() == before
    written.flush()
    assert len(read_manifest(tmp_path / "manifest.csv")) == 2


@pytest.mark.skipif(os.name != "posix", reason="names of any bytes")
def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"/slides/\xe4.svs")
    Manifest(tmp_path).record("a.zarr", {"slide": name, "state": "done"})
    assert b"/slides/\xe4.svs" in (tmp_path / "manifest.csv").read_bytes()
    assert read_manifest(tmp_path / "manifest.csv")["a.zarr"]["slide"] == name


def test_other_programs_can_read_it(tmp_path: Path) -> None:
    Manifest(tmp_path).record("ä.zarr", {"slide": "/ä, b.svs", "state": "done"})
    with (tmp_path / "manifest.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["slide"] == "/ä, b.svs"
