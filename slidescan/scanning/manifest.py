"""The manifest of a folder of maps: `manifest.csv`, a row for each slide.

Each write replaces the whole file under a lock, so several processes may record slides, and a
process that is killed leaves the file as it was. In an object store it is written on the condition
that it is still what was read, and otherwise read again. The maps are what counts: a row that a
killed process did not write is made again from its map, see `describe`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any, Literal, TextIO, TypeAlias

import numpy as np

from slidescan.errors import RemoteError, SlidescanError, WriteError
from slidescan.maps.record import find_record
from slidescan.maps.store import Heatmap
from slidescan.tools.atomic_files import lock, release, replacing
from slidescan.tools.regular_files import text_file
from slidescan.tools.urls import Place, Url

MANIFEST = "manifest.csv"
COLUMNS = (
    *("slide", "map", "state", "reason", "warnings", "mpp", "model", "settings"),
    *("rows", "columns", "scanned", "tissue_mm2", "highest", "p99_9", "seconds", "finished"),
)
"""docs/maps.md describes them. Further columns are those of the list of slides."""

WAITING: Literal["waiting"] = "waiting"
DONE: Literal["done"] = "done"
FAILED: Literal["failed"] = "failed"
MISSING: Literal["missing"] = "missing"
STATES = (DONE, FAILED, MISSING, WAITING)

OLD_COLUMNS = ("slide", "map", "status", "message", "rows", "columns", "scanned", "seconds")
"""Those of versions up to 0.1.0; the state "done before" was done."""

BUSY_SHARE = 0.02
"""The share of the time that may go into writing the manifest."""

LOCK_S = 600.0
"""A write takes a second at most, of 100,000 rows, and many jobs may start at once."""

SOON_S = 5.0
"""Longest wait for the lock where the write can be made up for."""

Row: TypeAlias = dict[str, str]


class Manifest:
    """The rows of a folder of maps, by the file names of the maps. Safe to use from threads."""

    def __init__(self, folder: Place) -> None:
        self.path = folder / MANIFEST
        self._pending: dict[str, Mapping[str, str]] = {}
        self._lock = threading.Lock()
        self._next_write = 0.0

    def edit(self, change: Callable[[dict[str, Row]], None], timeout_s: float = LOCK_S) -> None:
        """Change the rows while no other process does.

        Raises:
            SlidescanError: the file is not a manifest, or cannot be written.
        """
        if isinstance(self.path, Url):
            _edit_object(self.path, change)
            return
        held = lock(self.path, timeout_s=timeout_s)
        try:
            rows = read_manifest(self.path)
            before = {name: dict(row) for name, row in rows.items()}
            change(rows)
            if rows != before:
                _write(self.path, rows.values())
        finally:
            release(held)

    def record(self, map_name: str, row: Mapping[str, str]) -> None:
        """Put a row into the manifest, soon: writes are spread so that they take little time.

        An error is kept for `flush`: the maps, which are what counts, can still be written.
        """
        with self._lock:
            self._pending[map_name] = {**self._pending.get(map_name, {}), **row}
            if time.monotonic() < self._next_write:
                return
            started = time.monotonic()
            with suppress(WriteError, RemoteError):
                self._write_pending(SOON_S)
            now = time.monotonic()
            self._next_write = now + (now - started) / BUSY_SHARE

    def flush(self) -> None:
        """Write what `record` has not written yet. Raises WriteError."""
        with self._lock:
            if self._pending:
                self._write_pending(LOCK_S)

    def _write_pending(self, timeout_s: float) -> None:
        pending = dict(self._pending)

        def put(rows: dict[str, Row]) -> None:
            for name, changes in pending.items():
                row = rows.setdefault(name, {"map": name})
                row.update(changes)

        self.edit(put, timeout_s)
        self._pending.clear()


def _edit_object(url: Url, change: Callable[[dict[str, Row]], None]) -> None:
    """Change the rows of a manifest in an object store. Raises SlidescanError."""
    from slidescan.tools.objects.store import edit

    def changed(content: bytes | None) -> bytes | None:
        rows = _parse(url, StringIO(_decoded(content), newline="")) if content else {}
        before = {name: dict(row) for name, row in rows.items()}
        change(rows)
        return None if rows == before else _text(rows.values()).encode("utf-8", "surrogateescape")

    edit(url, changed)


def _decoded(content: bytes) -> str:
    return content.decode("utf-8-sig", "surrogateescape")


def read_manifest(path: Place) -> dict[str, Row]:
    """The rows by the file names of their maps; none where there is no manifest yet.

    Every row has all of `COLUMNS`. Also reads the manifests of version 0.1.0.

    Raises:
        SlidescanError: the file is not a manifest, or cannot be read.
    """
    if isinstance(path, Url):
        from slidescan.tools.objects.store import bucket_of

        found = bucket_of(path).get(path.path)
        return _parse(path, StringIO(_decoded(found[0]), newline="")) if found else {}
    try:
        # Names of files may be no UTF-8; their bytes stay as they are.
        with text_file(path, "surrogateescape") as file:
            return _parse(path, file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SlidescanError(f"{path}: cannot be read: {error}") from error


def _parse(path: Place, file: TextIO) -> dict[str, Row]:
    try:
        reader = csv.DictReader(file, restval="")
        header = tuple(reader.fieldnames or ())
        if not set(COLUMNS) <= set(header) and header != OLD_COLUMNS:
            raise SlidescanError(f"{path}: not slidescan's, so left alone; choose another --out")
        rows = [_current(row) for row in reader]
    except csv.Error as error:
        raise SlidescanError(f"{path}: cannot be read: {error}") from error
    return {row["map"]: row for row in rows}


def _current(row: dict[str | Any, str]) -> Row:
    """A row of any version in today's columns."""
    row.pop(None, None)  # cells beyond the header
    if "status" in row:
        row["state"] = DONE if (status := row.pop("status")) == "done before" else status
        row["reason"] = row.pop("message")
        # The path as it was typed, from a folder that is not recorded: probably this one.
        if os.path.lexists(row["slide"]):
            row["slide"] = os.path.abspath(row["slide"])
    return {column: row.pop(column, "") for column in COLUMNS} | row


def _write(path: Path, rows: Iterable[Row]) -> None:
    with (
        replacing(path) as beside,
        beside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        file.write(_text(rows))


def _text(rows: Iterable[Row]) -> str:
    rows, text = list(rows), StringIO(newline="")
    columns = list(dict.fromkeys([*COLUMNS, *(column for row in rows for column in row)]))
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def is_finished(target: Place) -> bool:
    """Whether a map is marked as complete; what it holds is not checked."""
    record = find_record(target)
    return record is not None and record.get("complete") is True


def describe(target: Place) -> Row:
    """What the manifest says of a finished map. Raises MapError."""
    heatmap = Heatmap.open(target)
    values = heatmap.read(heatmap.grid.cells)
    values = values[np.isfinite(values)]
    rows, columns = heatmap.grid.shape
    made, last = heatmap.provenance, heatmap.provenance.get("last_run", {})
    tissue_mm2 = made.get("tissue_mm2")
    highest, high = (values.max(), np.quantile(values, 0.999)) if values.size else (None, None)
    return {
        "state": DONE,
        "reason": "",
        "warnings": "; ".join(made.get("warnings", [])),
        "mpp": " x ".join(dict.fromkeys(f"{mpp:.6g}" for mpp in heatmap.settings["slide"]["mpp"])),
        "model": str(heatmap.settings["model"]["name"]),
        "settings": settings_id(heatmap.settings, heatmap.grid.stride),
        "rows": str(rows),
        "columns": str(columns),
        "scanned": str(values.size),
        "tissue_mm2": "" if tissue_mm2 is None else f"{tissue_mm2:.4g}",
        "highest": "" if highest is None else f"{highest:.4f}",
        "p99_9": "" if high is None else f"{high:.4f}",
        "seconds": str(last.get("seconds", "")),
        "finished": str(made.get("finished", "")),
    }


def settings_id(settings: Mapping[str, Any], stride_px: int) -> str:
    """Identify the settings of a scan, whatever its slide: equal for maps that can be compared."""
    kept = {key: value for key, value in settings.items() if key != "slide"}
    text = json.dumps(kept | {"stride_px": stride_px}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
