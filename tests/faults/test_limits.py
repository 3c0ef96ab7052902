"""Full and read-only disks, too little memory, too few handles, a thread that dies: one line.

What was finished stays, nothing that is not finished looks so, and the same command ends as if
nothing had been.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cases
import limits
import processes
import pytest
from cases import Case, Contents, Inputs

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux"),
    pytest.mark.slow,
    pytest.mark.timeout(0),
]

NAMES = ("scan", "cohort", "predict", "report", "train", "png", "dicom", "ngff04")


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest, inputs: Inputs) -> Case:
    return cases.case(request.param, inputs)


@pytest.fixture(scope="module")
def expected(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """What the command leaves that lacks nothing."""
    folder = tmp_path_factory.mktemp("expected")
    run(case, folder / "out", folder / "log")
    return case.read(folder / "out")


def run(case: Case, folder: Path, log: Path) -> None:
    folder.mkdir(exist_ok=True)
    assert processes.slidescan(*case.arguments(folder), log=log) == 0, log.read_text()


def refused(code: int, log: Path, *words: str) -> None:
    """One line, which has one of the words."""
    told = log.read_text()
    errors = [line for line in told.splitlines() if line.startswith("Error: ")]
    assert code == 1, told
    assert "Traceback" not in told, told
    assert errors, told
    assert not words or any(word in errors[0] for word in words), told


def part_of(expected: Contents, found: Contents) -> None:
    """What stands there is whole."""
    assert {name: expected[name] for name in found} == found


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB."""
    try:
        with limits.disk(tmp_path / "disk", 64 * 1024) as place:
            yield place
    except (PermissionError, FileNotFoundError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")


@pytest.mark.parametrize("room_kb", [0, 12])
def test_a_full_disk(
    room_kb: int, case: Case, expected: Contents, disk: Path, tmp_path: Path
) -> None:
    folder, log, filler = disk / "out", tmp_path / "log", disk / "filler"
    folder.mkdir()
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler.write_bytes(b"x" * (free - 1024 * room_kb))
    code = processes.slidescan(*case.arguments(folder), log=log)
    refused(code, log, "disk full", "No space left")
    part_of(expected, case.read(folder))
    filler.unlink()
    run(case, folder, log)
    assert case.read(folder) == expected


def test_a_disk_that_cannot_be_written(
    case: Case, expected: Contents, disk: Path, tmp_path: Path
) -> None:
    folder, log = disk / "out", tmp_path / "log"
    folder.mkdir()
    limits.read_only(disk)
    code = processes.slidescan(*case.arguments(folder), log=log)
    refused(code, log, "Read-only file system")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("more", [2, 12])
def test_too_few_handles(
    more: int, case: Case, expected: Contents, folder: Path, tmp_path: Path
) -> None:
    log, prepare = tmp_path / "log", partial(limits.handles, more)
    code = processes.slidescan(*case.arguments(folder), log=log, prepare=prepare)
    if code:
        refused(code, log, "Too many open files")
    part_of(expected, case.read(folder))
    run(case, folder, log)
    assert case.read(folder) == expected


@pytest.mark.parametrize("more_mb", [10, 60, 120])
def test_too_little_memory(
    more_mb: int, case: Case, expected: Contents, folder: Path, tmp_path: Path
) -> None:
    log, prepare = tmp_path / "log", partial(limits.memory, more_mb)
    code = processes.slidescan(*case.arguments(folder), log=log, prepare=prepare)
    if code == 127:  # glibc ends a process where a library's thread finds no memory for its data
        assert "cannot allocate memory for thread-local data: ABORT" in log.read_text()
    elif code:
        refused(code, log, "memory")
    part_of(expected, case.read(folder))
    run(case, folder, log)
    assert case.read(folder) == expected


@pytest.mark.parametrize("error", [MemoryError, OSError, RuntimeError, SystemExit])
def test_a_reading_thread_that_dies(
    error: type[BaseException], inputs: Inputs, folder: Path, tmp_path: Path
) -> None:
    """Whatever ends it, the scan ends with an error and can be resumed."""
    case, log = cases.case("scan", inputs), tmp_path / "log"
    prepare = partial(limits.dying_reader, error, 3)
    code = processes.slidescan(*case.arguments(folder), log=log, prepare=prepare)
    assert code != 0
    assert case.read(folder) == {}
    run(case, folder, log)
    assert list(case.read(folder)) == ["a.zarr"]
