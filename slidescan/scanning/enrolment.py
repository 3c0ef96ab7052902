"""The slides of a batch and the names of their maps, as they stand in the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from slidescan.scanning.listing import Entry, name_maps
from slidescan.scanning.manifest import DONE, MANIFEST, WAITING, Manifest, Row, read_manifest
from slidescan.tools.atomic_files import check_folder, writing
from slidescan.tools.urls import Place, is_there


@dataclass(frozen=True, slots=True)
class Task:
    """A slide and its map, in the order of the list."""

    entry: Entry
    map_name: str
    """the name of the map's folder, which ends in .zarr"""
    state: str = WAITING
    """in the manifest, before this run"""
    recorded: bool = False
    """whether the manifest has the figures of its finished map"""
    owner: str = ""
    """another slide, if the map of this name is its"""


def prepare_folder(folder: Place) -> None:
    """Create the folder of maps. Raises SlidescanError where it or its manifest is not ours."""
    if isinstance(folder, Path):  # a store has no folders
        check_folder(folder)
        with writing(folder):
            folder.mkdir(exist_ok=True)
    read_manifest(folder / MANIFEST)


def enrol(entries: Sequence[Entry], folder: Place, *, write: bool = True) -> list[Task]:
    """Choose the names of the maps and put slides that are new into the manifest, as waiting.

    Args:
        entries: the slides, see `read_arguments`.
        folder: the folder of maps.
        write: false only looks.

    Raises:
        SlidescanError: the manifest cannot be read or written.
    """
    tasks: list[Task] = []

    def add(rows: dict[str, Row]) -> None:
        known = {name.removesuffix(".zarr"): row["slide"] for name, row in rows.items()}
        names = name_maps(entries, known)
        pairs = zip(entries, names, strict=True)
        tasks[:] = [_enrolled(entry, f"{name}.zarr", rows) for entry, name in pairs]

    # Of a thousand jobs that start with the same list, only the first needs the lock.
    rows = read_manifest(folder / MANIFEST)
    before = deepcopy(rows)
    add(rows)
    if write and rows != before:
        Manifest(folder).edit(add)
    return tasks


def _enrolled(entry: Entry, map_name: str, rows: dict[str, Row]) -> Task:
    """Put a slide into the rows, unless a map of this name is another slide's."""
    mpp = "" if entry.mpp is None else f"{entry.mpp:g}"
    slide = str(entry.slide)
    row = rows.setdefault(map_name, {"slide": slide, "state": WAITING, "mpp": mpp})
    if row["slide"] != slide and is_there(row["slide"]):
        return Task(entry, map_name, owner=row["slide"])
    row.update(entry.carried, slide=slide, map=map_name)
    state = row["state"]
    return Task(entry, map_name, state, recorded=state == DONE and bool(row.get("settings")))


def selected(
    tasks: list[Task], shard: tuple[int, int] = (1, 1), state: str | None = None
) -> list[Task]:
    """The tasks of a part (i, n) of the list, and of those the ones in a state of the manifest."""
    part, parts = shard
    return [task for task in tasks[part - 1 :: parts] if state in (None, task.state)]
