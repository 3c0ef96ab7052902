"""Temporary files and folders beside their target; what killed processes left of them is removed.

SIGKILL leaves a temporary file where it is. The next writer of the same target deletes it. It knows
by a lock (`flock`) that each writer has on its own, which ends with the process, on this machine or
on another. Where there are no such locks, as on Windows and some shared disks, leftovers stay.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp, mkstemp

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MARK = ".slidescan-tmp"
"""In every name, so that nobody else's hidden file is taken for a leftover."""

_RANDOM = "?" * 8
"""What `tempfile` puts into a name."""


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Yield an empty file beside `path`, with its ending; deleted at the end if it is still there.

    Raises OSError.
    """
    prefix, suffix = f".{path.stem}-", f"{MARK}{path.suffix}"

    def make() -> str:
        handle, name = mkstemp(suffix, prefix, path.parent)
        os.close(handle)  # so that any library can open it by its name
        return name

    _sweep(path.parent, prefix, suffix, Path.unlink)
    made, handle = _made(make)
    try:
        yield made
    finally:
        made.unlink(missing_ok=True)
        if handle is not None:  # closed last: nobody deletes what is locked
            os.close(handle)


@contextmanager
def temporary_folder(path: Path, rescue: Callable[[Path], object]) -> Iterator[Path]:
    """Yield an empty folder beside `path`, which is deleted at the end.

    `rescue` is called with what a killed process left, before that is deleted.

    Raises OSError.
    """
    prefix, suffix = f".{path.name}-", MARK

    def delete(leftover: Path) -> None:
        rescue(leftover)
        shutil.rmtree(leftover, ignore_errors=True)

    _sweep(path.parent, prefix, suffix, delete)
    made, handle = _made(lambda: mkdtemp(suffix, prefix, path.parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def _made(make: Callable[[], str]) -> tuple[Path, int | None]:
    """Make a file or folder and lock it; returns it and the handle that holds the lock, if any."""
    while True:
        made = Path(make())
        if not fcntl:
            return made, None
        handle = _opened(made)
        with suppress(OSError):  # this file system has no such locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if made.exists():
            return made, handle
        os.close(handle)  # another process took it for a leftover before it was locked


def _sweep(folder: Path, prefix: str, suffix: str, delete: Callable[[Path], object]) -> None:
    """Delete what no living process has locked."""
    pattern = f"{glob.escape(prefix)}{_RANDOM}{glob.escape(suffix)}"
    for found in folder.glob(pattern) if fcntl else ():
        # It is in use, another process deleted it, or it is another user's.
        with suppress(OSError), _locked(found):
            delete(found)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = _opened(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
