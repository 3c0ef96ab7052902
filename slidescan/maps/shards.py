"""The shards of a map as files or as objects: which there are, and what writing one takes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

from slidescan.errors import RemoteError
from slidescan.tools.atomic_files import sync
from slidescan.tools.prefetch import prefetch
from slidescan.tools.urls import WEB, Place, Url

Item = TypeVar("Item")
Result = TypeVar("Result")

Stamp: TypeAlias = tuple[float, str]
"""Time of the last change in s, and what changes with the content."""


class Shards(Protocol):
    """Shards by their keys below the map, e.g. "0/c/1/2"."""

    def has(self, key: str) -> bool: ...

    def has_any(self, array: str) -> bool:
        """Whether any shard of an array was written."""

    def refresh(self) -> None:
        """Forget which shards there were: another process may have written some."""

    def clear(self, key: str) -> None:
        """Remove a shard that is to be written: zarr would merge into it, or fail on its damage."""

    def written(self, key: str) -> None:
        """Bring a shard that was written to the disk."""

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Call a function that reads or writes a shard for each item; results in order."""

    def trouble(self, error: BaseException) -> RemoteError | None:
        """What an error of the store means; None for errors of zarr and of files."""


def shards_of(place: Place) -> Shards:
    """The shards of the map at a path or an address."""
    return _Objects(place) if isinstance(place, Url) else _Files(place)


class _Files:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, key: str) -> bool:
        return (self._folder / key).exists()

    def has_any(self, array: str) -> bool:
        return (self._folder / array / "c").is_dir()

    def refresh(self) -> None: ...  # files are looked for each time

    def clear(self, key: str) -> None:
        (self._folder / key).unlink(missing_ok=True)

    def written(self, key: str) -> None:
        shard = self._folder / key
        if shard.exists():  # zarr writes none where all cells have the fill value
            sync(shard, shard.parent, shard.parent.parent)

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return map(function, items)

    def trouble(self, error: BaseException) -> RemoteError | None:
        return None


class _Objects:
    """Lists an array's shards once; what this process writes is added."""

    def __init__(self, url: Url) -> None:
        from slidescan.tools.objects.store import bucket_of

        self._url = url
        self._bucket = bucket_of(url)
        self._listed: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def _keys(self, array: str) -> set[str]:
        with self._lock:
            if array not in self._listed:
                found = self._bucket.objects((self._url / array / "c").path)
                skip = len(self._url.path) + 1
                self._listed[array] = {each.key[skip:] for each in found}
            return self._listed[array]

    def has(self, key: str) -> bool:
        if self._url.scheme in WEB:  # a server lists nothing
            return self._bucket.head((self._url / key).path) is not None
        return key in self._keys(key.partition("/c/")[0])

    def has_any(self, array: str) -> bool:
        # A server lists nothing: reading the array costs as much as asking for its shards.
        return self._url.scheme in WEB or bool(self._keys(array))

    def refresh(self) -> None:
        with self._lock:
            self._listed.clear()

    def clear(self, key: str) -> None:
        keys = self._keys(key.partition("/c/")[0])
        if key in keys:
            self._bucket.delete((self._url / key).path)
            keys.discard(key)

    def written(self, key: str) -> None:
        # zarr puts none where all cells have the fill value; `done` then finds nothing to expect.
        self._keys(key.partition("/c/")[0]).add(key)

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        from slidescan.tools.objects.store import AT_ONCE

        with ThreadPoolExecutor(AT_ONCE, "shards") as pool:
            for _, result in prefetch(pool, function, items, 2 * AT_ONCE):
                yield result

    def trouble(self, error: BaseException) -> RemoteError | None:
        from slidescan.tools.objects.attempts import trouble

        return trouble(self._url, error)


def stamps(place: Place, array: str) -> list[tuple[str, Stamp]]:
    """Name ("row/column") and stamp of each shard of an array, the oldest first."""
    return sorted(_stamps(place, array), key=lambda each: each[1])


def _stamps(place: Place, array: str) -> Iterator[tuple[str, Stamp]]:
    if isinstance(place, Url):
        from slidescan.tools.objects.store import bucket_of

        for entry in bucket_of(place).objects((place / array / "c").path):
            row, column = entry.key.split("/")[-2:]
            yield f"{row}/{column}", (entry.modified.timestamp(), entry.tag)
        return
    folder = place / array / "c"
    for found in folder.iterdir() if folder.is_dir() else ():
        for file in os.scandir(found) if found.name.isdecimal() else ():
            stamp = stamp_of(Path(file.path)) if file.name.isdecimal() else None
            if stamp:
                yield f"{found.name}/{file.name}", stamp


def stamp_of(place: Place) -> Stamp | None:
    """What changes when a file or an object is replaced; None where there is none."""
    if isinstance(place, Url):
        from slidescan.tools.objects.store import bucket_of

        entry = bucket_of(place).head(place.path)
        return (entry.modified.timestamp(), entry.tag) if entry else None
    try:
        state = place.stat()
    except OSError:
        return None
    return state.st_mtime_ns / 1e9, f"{state.st_ino} {state.st_mtime_ns} {state.st_size}"
