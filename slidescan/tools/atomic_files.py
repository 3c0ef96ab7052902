"""Files that are complete or absent: durable writes, locks, and write errors in one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from slidescan.errors import BusyError, WriteError
from slidescan.tools.regular_files import TOO_MANY_FILES
from slidescan.tools.temporary_files import temporary_file, temporary_folder
from slidescan.tools.urls import Url

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(path: Path | Url) -> Iterator[None]:
    """Turn an OSError while writing at `path` into a `WriteError` that names a remedy."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in NO_ROOM:
            raise WriteError(
                f"{path}: disk full ({reason}); what was finished stays, make room and "
                "run the same command again"
            ) from error
        remedy = "check the permissions or choose another --out"
        if error.errno in TOO_MANY_FILES:
            remedy = "raise the limit, e.g. ulimit -n 4096, and run the same command again"
        raise WriteError(f"{path}: cannot be written ({reason}); {remedy}") from error


def check_folder(path: Path) -> None:
    """Refuse a path in a folder that does not exist, which is probably mistyped.

    Raises WriteError.
    """
    with writing(path):
        found = path.parent.is_dir()
    if not found:
        raise WriteError(f"{path}: there is no folder {path.parent}; create it or correct --out")


def check_png(path: Path) -> None:
    """Refuse a path that cannot become a PNG, before any long work. Raises WriteError."""
    check_folder(path)
    if path.suffix.lower() != ".png" or path.is_dir():
        raise WriteError(f"{path}: not the name of a PNG; choose one that ends in .png")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path` to write to, and rename it to `path` at the end.

    An existing file stays at `path` until the new one is complete and on the disk.

    Raises WriteError.
    """
    check_folder(path)
    with writing(path):
        with temporary_file(path) as beside:
            yield beside
            beside.chmod(0o666 & ~_umask())
            sync(beside)
            beside.replace(path)
        sync(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield the name of a folder beside `path` to make and fill; rename it to `path` at the end.

    A folder at `path` stays until the new one is complete and on the disk. Callers refuse what must
    not be replaced.

    Raises WriteError.
    """
    check_folder(path)

    def restore(hidden: Path) -> None:
        """Undo a replacement that was killed between its two renames."""
        if (hidden / "old").exists() and not path.exists():
            (hidden / "old").rename(path)

    with writing(path), temporary_folder(path, restore) as hidden:
        # The hidden folder has mode 0700; what is made in it has the mode of the umask.
        new, old = hidden / "new", hidden / "old"
        yield new
        sync(new, *new.rglob("*"))
        try:
            if path.exists():
                path.rename(old)
            new.rename(path)
        except BaseException:
            restore(hidden)
            raise
        sync(path.parent)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def sync(*paths: Path) -> None:
    """Flush files, and the entries of folders, to the disk."""
    for path in paths:
        if path.is_dir() and os.name == "nt":
            continue  # Windows cannot open a folder
        handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def lock(path: Path, timeout_s: float = 0) -> FileLock:
    """Take the lock beside `path`, which also covers creating and replacing `path`.

    Raises:
        BusyError: another process holds it for longer than `timeout_s`.
        WriteError: the lock file cannot be written.
    """
    check_folder(path)
    held = FileLock(path.with_name(f".{path.name}.lock"), timeout=timeout_s, thread_local=False)
    with writing(path):
        # filelock takes any failure to create its file for a lock that is held.
        Path(held.lock_file).touch()
        try:
            held.acquire()
        except Timeout:
            raise BusyError(
                f"{path}: another slidescan is writing it; wait for it or choose another --out"
            ) from None
    return held


def release(held: FileLock) -> None:
    """Release a lock and delete its file."""
    # Deleted while held: filelock (3.21 on) takes no lock on a deleted file, so a process that has
    # opened this one cannot hold it while another holds the next.
    with suppress(OSError):  # Windows removes it on release
        os.unlink(held.lock_file)
    held.release()


def remove_unheld_lock(path: Path | Url) -> None:
    """Delete the lock file beside `path` that a killed process left, if nobody holds it."""
    if isinstance(path, Path) and path.with_name(f".{path.name}.lock").exists():
        with suppress(WriteError):
            release(lock(path))
