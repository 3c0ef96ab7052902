"""The place of a map: its lock, the checks before it is made, and making it all or nothing."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock

from slidescan.errors import MapError
from slidescan.maps.layout import lay
from slidescan.maps.record import Blank, find_record, new_record
from slidescan.maps.replacement import recover, successor
from slidescan.tools.atomic_files import check_folder, lock, release, sync, writing
from slidescan.tools.settings_diff import encodable
from slidescan.tools.temporary_files import MARK


def check_target(path: Path) -> None:
    """Refuse a path where no map can be written.

    Raises:
        SlidescanError: there is no such folder, or something else is at `path`.
    """
    check_folder(path)
    if find_record(path) is None and os.path.lexists(path):
        with writing(path):
            if not path.is_dir() or any(path.iterdir()):
                raise MapError(f"{path}: not a slidescan map, so left alone; choose another --out")


def create(path: Path, blank: Blank, overwrite: bool, name: str | None = None) -> None:
    """Write an empty map to a hidden folder and rename it to `path`; the old map goes last.

    `name` is the image's, by default that of `path`.

    Raises:
        MapError: there is a map already and `overwrite` is false, or something else is there.
        WriteError: it cannot be written.
    """
    record = new_record(blank)
    check_target(path)
    taken = find_record(path) is not None
    if taken and not overwrite:
        raise MapError(f"{path}: exists; pass --overwrite or choose another --out")
    names = {"prefix": f".{path.name}-", "suffix": MARK}
    with (
        writing(path),
        TemporaryDirectory(**names, dir=path.parent, ignore_cleanup_errors=True) as hidden,
    ):
        # The hidden folder has mode 0700; the map is a subfolder, with the mode of the umask.
        new, old = Path(hidden, "new"), Path(hidden, "old")
        lay(new, encodable(name or path.stem), record, blank["mask"])
        try:
            if taken:
                path.rename(old)
            elif path.exists():
                path.rmdir()  # it is empty; Windows cannot rename onto an existing folder
            new.rename(path)
        except BaseException:
            if old.exists() and not path.exists():
                old.rename(path)
            raise
        sync(path.parent)


def _clear(path: Path) -> None:
    """Remove what a killed writer left of the map at `path`; a map that was in the way returns."""
    # Exactly the eight letters of tempfile: "a-*" would match the folders of a map "a-b".
    for folder in path.parent.glob(f".{glob.escape(path.name)}-{'?' * 8}{MARK}"):
        old = folder / "old"
        if not os.path.lexists(path) and find_record(old):
            old.rename(path)  # killed between the two renames of `create`
        shutil.rmtree(folder, ignore_errors=True)
    # zarr's name for a shard before it is renamed. Only maps of slidescan are searched.
    for partial in path.rglob("*.partial") if find_record(path) else ():
        partial.unlink(missing_ok=True)


class Lent:
    """Stands for the lock of a map that another process holds while this one writes for it.

    `started` is when the map was begun, by its record: the process that held the lock may be gone,
    and a later one may have put another map in its place.
    """

    def __init__(self, folder: Path | None = None, started: str = "") -> None:
        self._folder = folder
        self._started = started

    def release(self) -> None:
        """Do nothing: the lock is another process's."""

    def check(self) -> None:
        """Raise MapError where the map is finished or another one by now."""
        if self._folder is None:
            return
        record = find_record(self._folder) or {}
        same = (record.get("provenance") or {}).get("started") == self._started
        if not same or record.get("complete") is not False:
            raise MapError(f"{self._folder}: another scan has taken its place; this one ends")


@contextmanager
def locked(path: Path) -> Iterator[FileLock]:
    """Lock the map and remove what a killed writer left; the lock is kept unless the body fails.

    Raises WriteError where another process holds the lock.
    """
    held = lock(path)
    try:
        with writing(path):
            for place in (path, successor(path)):
                _clear(place)
            recover(path)
        yield held
    except BaseException:
        release(held)
        raise
