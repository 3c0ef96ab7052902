"""What killed writers leave is removed by the next one; what is being written stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slidescan.errors import WriteError
from slidescan.tools.atomic_files import replacing, replacing_folder

posix = pytest.mark.skipif(os.name != "posix", reason="needs flock and SIGKILL")

WRITER = """
import sys
from pathlib import Path
from slidescan.tools.atomic_files import replacing, replacing_folder

with globals()[sys.argv[1]](Path(sys.argv[2])) as beside:
    print(beside, flush=True)
    sys.stdin.read()
"""


def writer(kind: str, path: Path) -> subprocess.Popen[str]:
    """Another process in the middle of writing `path`."""
    command = (sys.executable, "-c", WRITER, kind, path)
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


@posix
@pytest.mark.parametrize(("kind", "name"), [("replacing", "a.png"), ("replacing_folder", "a.zarr")])
def test_leftovers_of_the_dead_alone_are_removed(kind: str, name: str, tmp_path: Path) -> None:
    path, other = tmp_path / name, tmp_path / f".a-mine.{name}"
    other.write_text("another hidden file")
    dead, alive = writer(kind, path), writer(kind, path)
    assert len(list(tmp_path.iterdir())) == 3
    dead.kill()
    dead.communicate()
    assert dead.returncode == -signal.SIGKILL
    put(kind, path)
    assert len(list(tmp_path.iterdir())) == 3  # the target, the file that lives, the other file
    # Without what it was to write, a folder is not renamed.
    alive.communicate()
    assert (alive.returncode == 0) == (kind == "replacing")
    assert sorted(tmp_path.iterdir()) == sorted([path, other])


def put(kind: str, path: Path) -> None:
    if kind == "replacing":
        with replacing(path) as beside:
            beside.write_text("new")
    else:
        with replacing_folder(path) as beside:
            beside.mkdir()


@posix
def test_a_folder_that_was_moved_away_by_a_killed_writer_returns(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    killed = writer("replacing_folder", path)
    (hidden,) = tmp_path.glob(".a.zarr-*")
    (hidden / "old").mkdir()
    (hidden / "old" / "data").write_text("finished")
    killed.kill()
    killed.communicate()

    def fail() -> None:
        with replacing_folder(path):
            assert (path / "data").read_text() == "finished"
            raise OSError("no room")

    with pytest.raises(WriteError):
        fail()
    assert (path / "data").read_text() == "finished"
    assert list(tmp_path.iterdir()) == [path]


def test_no_handle_stays_open(tmp_path: Path) -> None:
    handle = os.open(tmp_path, os.O_RDONLY) if os.name == "posix" else 0
    for _ in range(3):
        put("replacing", tmp_path / "a.png")
        put("replacing_folder", tmp_path / "b.zarr")
    if handle:
        os.close(handle)
        again = os.open(tmp_path, os.O_RDONLY)
        os.close(again)
        assert again == handle
