"""Replacing a finished map: the old one stays until the new one is complete.

The new map is written beside the old one, as `.NAME.new`. Two renames put it in place, by way of
`.NAME.old`. A process that is killed between them leaves what `recover` puts right.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import mkdtemp

from slidescan.errors import MapError
from slidescan.maps.record import find_record
from slidescan.tools.atomic_files import sync
from slidescan.tools.temporary_files import MARK


def successor(path: Path) -> Path:
    """Where the map that is to replace `path` is written."""
    return path.with_name(f".{path.name}.new")


def _predecessor(path: Path) -> Path:
    """Where the replaced map is between the two renames, and until it is deleted."""
    return path.with_name(f".{path.name}.old")


def swap(path: Path) -> None:
    """Put the successor in the place of the map. Raises OSError."""
    old = _predecessor(path)
    if find_record(path) is not None:
        path.rename(old)
    try:
        successor(path).rename(path)
    except OSError:
        if old.exists() and not os.path.lexists(path):
            old.rename(path)
        raise
    sync(path.parent)
    _delete(path, old)


def recover(path: Path) -> None:
    """Finish or undo a replacement that was killed; the caller holds the lock.

    A complete successor is put in place. An incomplete one stays, and is resumed. Raises OSError.
    """
    old, new = _predecessor(path), successor(path)
    if not os.path.lexists(path) and find_record(old):
        old.rename(path)
    elif find_record(old) and find_record(path):
        _delete(path, old)
    if _is_complete(new):
        swap(path)


def drop(path: Path) -> None:
    """Delete an incomplete successor."""
    if find_record(successor(path)):
        _delete(path, successor(path))


def _delete(path: Path, folder: Path) -> None:
    """Delete a map beside `path`. A kill meanwhile leaves what `creation.locked` clears away.

    Under its own name a map without its record would be in the way, as nobody knows whose it is.
    """
    hidden = Path(mkdtemp(MARK, f".{path.name}-", path.parent))
    if folder.exists():
        folder.rename(hidden / "gone")
    shutil.rmtree(hidden, ignore_errors=True)


def _is_complete(path: Path) -> bool:
    try:
        record = find_record(path)
    except MapError:
        return False
    return record is not None and record.get("complete") is True
