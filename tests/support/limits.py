"""What a process lacks: memory, handles, a reading thread, the power. For `processes.slidescan`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import run
from typing import Any


def memory(more_mb: int) -> None:
    """Allow `more_mb` beyond what the process has."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + more_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def handles(more: int) -> None:
    """Allow `more` open files beyond those that are open."""
    import resource

    most = max(map(int, os.listdir("/proc/self/fd"))) + 1 + more
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def dying_reader(error: type[BaseException], call: int) -> None:
    """Let the nth read of a tile raise an error."""
    from slidescan.slides.plane import Plane

    real, calls = Plane.read_with_gaps, []

    def read(self: Plane, box: Any) -> Any:
        calls.append(box)
        if len(calls) == call:
            raise error("the thread dies")
        return real(self, box)

    Plane.read_with_gaps = read  # type: ignore[method-assign]


@contextmanager
def disk(place: Path, size_kb: int) -> Iterator[Path]:
    """Mount an empty file system of this size; raises PermissionError where that is not allowed."""
    place.mkdir()
    mounted = run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "slidescan-test", place],
        capture_output=True,
    )
    if mounted.returncode:
        raise PermissionError(mounted.stderr.decode())
    try:
        yield place
    finally:
        run(["umount", "--lazy", place], check=True)


def read_only(place: Path) -> None:
    run(["mount", "-o", "remount,ro", place], check=True)


# --- power failure ----------------------------------------------------------------------------


def recorded_syncs(record: Path) -> partial[None]:
    """Write to `record` which files are on the disk, and up to where."""
    return partial(_record_syncs, record)


def _record_syncs(record: Path) -> None:
    from slidescan.tools import leases

    # A lease whose content is lost says nothing of its holder and has to expire.
    leases.DURATION_S = 1.0
    file = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    real = os.fsync

    def fsync(handle: int) -> None:
        real(handle)
        stat = os.fstat(handle)
        os.write(file, f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}\n".encode())

    os.fsync = fsync  # type: ignore[assignment]


def fail_power(folder: Path, record: Path) -> int:
    """Cut files to what was on the disk, as after a power failure; returns how many lost bytes.

    Names stay, which is the worse case: a file system may keep a rename and lose the data.
    """
    synced: dict[int, tuple[int, int]] = {}
    for line in record.read_text().splitlines():
        inode, size, moment = map(int, line.split())
        synced[inode] = size, moment
    lost = 0
    for path, stat in _files(folder):
        size, moment = synced.get(stat.st_ino, (0, 0))
        if moment > stat.st_mtime_ns or size > stat.st_size:
            size = 0  # another file had its number
        if (size, moment) != (stat.st_size, stat.st_mtime_ns) and stat.st_size:
            os.truncate(path, size)
            lost += 1
    all_synced(folder, record)
    return lost


def all_synced(folder: Path, record: Path) -> None:
    """Take everything that is there for what is on the disk."""
    record.write_text(
        "".join(f"{s.st_ino} {s.st_size} {s.st_mtime_ns}\n" for _, s in _files(folder))
    )


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path, path.stat()
