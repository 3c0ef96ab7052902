"""The cache of patches."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import patches
import pytest
from labelled_patches import DATA, FEW, HALF, cached, never, refused, same, spoil
from waiting import wait_until

from slidescan.errors import WriteError
from slidescan.patches.labelled import Data, load_data, reading
from slidescan.tools import atomic_files


def test_patches_are_read_once(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_data(few, **HALF)
    monkeypatch.setattr(reading, "copy_all", never)
    told: list[str] = []
    again = load_data(few, say=told.append, **HALF)
    same(again, FEW)
    assert (again.fingerprint, told) == (first.fingerprint, [])
    assert sorted(p.name for p in cached(few).parent.iterdir()) == ["patches.json", "patches.npy"]


def test_defects_are_remembered(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = spoil(few)
    first = load_data(few, skip_bad=True, **HALF)
    monkeypatch.setattr(reading, "copy_all", never)
    assert load_data(few, skip_bad=True, **HALF).left_out == first.left_out
    assert len(first.left_out) == len(expected)


def test_other_labels_need_no_other_cache(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_data(few, **HALF)
    monkeypatch.setattr(reading, "copy_all", never)
    rows = [(i, 1 - y) for i, y in zip(FEW.ids, FEW.labels.tolist(), strict=True)]
    patches.write_labels(few, rows)
    again = load_data(few, **HALF)
    np.testing.assert_array_equal(again.training.labels, 1 - first.training.labels)
    assert again.fingerprint != first.fingerprint


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def touch(path: Path) -> None:
    os.utime(path.parents[1] / "train" / f"{FEW.ids[0]}.tif", ns=(1, 1))


def edit(path: Path, **changes: object) -> None:
    index = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(index | changes))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (touch, "the patches' files have changed since"),
        (flip, "damaged, its pixels have changed"),
        (lambda path: os.truncate(path, 5000), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.with_suffix(".json").write_text("{"), "damaged"),
        (lambda path: edit(path, version=2), "damaged"),
        (lambda path: edit(path, digests=[]), "damaged"),
        (lambda path: np.save(path, np.zeros(9)), "damaged"),
        (lambda path: path.write_bytes(pickle.dumps(["no", "arrays"])), "damaged"),
    ],
)
def test_a_cache_that_is_not_right_is_built_anew(
    spoil: Callable[[Path], object], told: str, few: Path
) -> None:
    load_data(few, **HALF)
    path = cached(few)
    spoil(path)
    said: list[str] = []
    same(load_data(few, say=said.append, **HALF), FEW)
    assert said[0].startswith(f"{path}: {told}")
    assert said[0].endswith("building it anew")
    assert "building the cache of 24 patches" in said[1]
    said.clear()
    same(load_data(few, say=said.append, **HALF), FEW)
    assert said == []


def test_many_patches_are_read_by_processes(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FEW", 0)
    same(load_data(few, **HALF), FEW)


def test_a_cache_of_all_serves_some(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text("\n".join(FEW.ids[4:]))
    alone = load_data(few, only=listed, **HALF)
    assert alone.training.stored.shape == (20, 96, 96, 3)  # nobody reads the rest for it
    assert not cached(few).exists()
    load_data(few, **HALF)
    monkeypatch.setattr(reading, "copy_all", never)
    some = load_data(few, only=listed, **HALF)
    assert some.training.stored.shape == (24, 96, 96, 3)
    assert some.fingerprint == alone.fingerprint
    same(some, FEW.take(np.arange(4, 24)))


def test_a_cache_goes_where_it_is_told(few: Path, tmp_path: Path) -> None:
    other = patches.write(tmp_path / "other" / "pcam", DATA)
    for folder, made in ((few, FEW), (other, DATA)) * 2:
        same(load_data(folder, cache=tmp_path / "cache", **HALF), made)
        assert not (folder / ".slidescan").exists()
    assert len(list((tmp_path / "cache").glob("pcam-*/patches.npy"))) == 2


def test_a_folder_that_cannot_be_written_has_its_cache_elsewhere(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != few and access(path, mode))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    load_data(few, **HALF)
    assert not (few / ".slidescan").exists()
    (path,) = (tmp_path / "home" / "slidescan").glob("pcam-*/patches.npy")
    monkeypatch.setattr(reading, "copy_all", never)
    assert load_data(few, **HALF).training.stored.filename == path
    # One that came with the folder is taken although nobody could write it.
    path.parent.rename(few / ".slidescan")
    assert load_data(few, **HALF).training.stored.filename == cached(few)


def test_too_little_room_is_told_before_anything_is_written(
    few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 1000}))
    refused(few, "the cache needs 0.0 GB, 0.0 GB are free", "choose another folder with --cache")
    assert list(cached(few).parent.iterdir()) == []


def test_a_cache_folder_that_cannot_be_made_is_told(few: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(few, "cannot be made", "--cache", cache=tmp_path / "file" / "cache")


def test_a_full_disk_is_told_in_one_line(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
        with pytest.raises(WriteError) as error:
            load_data(few, **HALF)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "\n" not in str(error.value)
    assert "disk full" in str(error.value)
    assert list(cached(few).parent.iterdir()) == []


@pytest.mark.parametrize("built", [True, False])
def test_two_that_build_at_once_wait_for_each_other(
    built: bool, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if built:
        load_data(few, **HALF)
        finished = cached(few).parent.rename(tmp_path / "finished")
        monkeypatch.setattr(reading, "copy_all", never)
    cached(few).parent.mkdir()
    held = atomic_files.lock(cached(few))
    told: list[str] = []
    read: list[Data] = []
    second = threading.Thread(
        target=lambda: read.append(load_data(few, say=told.append, **HALF)), daemon=True
    )
    second.start()
    assert wait_until(lambda: told)
    assert told == [f"{cached(few)}: another process is building this cache; waiting for it"]
    if built:  # by the one that holds the lock
        for path in finished.iterdir():
            path.rename(cached(few).parent / path.name)
    atomic_files.release(held)
    second.join(60)
    same(read[0], FEW)
    assert len(told) == (1 if built else 2)


KILLED = """
import os, signal, sys
from pathlib import Path
from slidescan.patches.labelled import reading
from slidescan.patches.labelled import load_data

reading.FEW = 0
at, root = sys.argv[1:]
replace = Path.replace
def dying(self, target):
    if target.suffix == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
def progress(entries, **_):
    for entry in entries:
        if at == "reading":
            os.kill(os.getpid(), signal.SIGKILL)
        yield entry
Path.replace = dying
if __name__ == "__main__":
    load_data(Path(root), progress=progress)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("at", ["reading", ".npy", ".json"])
def test_a_builder_that_is_killed_leaves_nothing_that_looks_whole(
    at: str, few: Path, tmp_path: Path
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    killed = subprocess.run(
        [sys.executable, "-W", "error", script, at, few],
        capture_output=True,  # until every process that writes to it has ended
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stderr == ""
    assert any(path.name.startswith(".patches-") for path in cached(few).parent.iterdir())
    told: list[str] = []
    same(load_data(few, say=told.append, **HALF), FEW)
    assert len(told) == 1
    assert "building the cache" in told[0]
    left = sorted(path.name for path in cached(few).parent.iterdir())
    assert left == ["patches.json", "patches.npy"]
