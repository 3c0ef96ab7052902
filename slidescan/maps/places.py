"""Where a map lies decides how it is made, locked and replaced: a folder, or an object store.

`keeping` gives the one or the other. Everything above this module is the same for both.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from slidescan.errors import MapError
from slidescan.maps import creation, replacement
from slidescan.maps.record import Blank, find_record
from slidescan.tools.atomic_files import release, writing
from slidescan.tools.urls import AnyPlace, Place, Url, place_of

if TYPE_CHECKING:
    from filelock import FileLock

    from slidescan.tools.objects.leases import ObjectLease

    Held: TypeAlias = FileLock | ObjectLease | creation.Lent


class Keeping(Protocol):
    """What is done with the place of a map. Every method may raise MapError or WriteError."""

    def check_target(self) -> None:
        """Refuse a place where no map can be written."""

    def locked(self) -> AbstractContextManager[Held]:
        """Keep other writers away and remove what a killed one left; kept unless the body fails."""

    def check(self, held: Held) -> None:
        """Refuse to write with a lock that was lost."""

    def release(self, held: Held) -> None: ...

    def create(self, blank: Blank, overwrite: bool, name: str | None = None) -> None:
        """Write an empty map, all or nothing."""

    @property
    def successor(self) -> Place:
        """Where the map that is to replace this one is written."""

    def swap(self) -> None:
        """Put the successor, which is complete, in the place of the map."""

    def drop(self) -> None:
        """Delete an incomplete successor."""


def keeping(place: Place) -> Keeping:
    """How a map at a path or an address is kept."""
    if isinstance(place, Url):
        from slidescan.maps.remote import Remote

        return Remote(place)
    return _Local(place)


def resolved(text: AnyPlace) -> Place:
    """The one name of a map's place, so that there is one lock: links are followed.

    Raises:
        ConfigError: an address that cannot be used.
        MapError: links that form a loop.
    """
    place = place_of(text)
    if isinstance(place, Url):
        return place
    try:
        return place.resolve()
    except (OSError, RuntimeError) as error:  # Python 3.11 and 3.12 raise RuntimeError
        raise MapError(f"{place}: its symbolic links form a loop; correct the path") from error


def maps_below(url: Url) -> list[Url]:
    """The map at an address, or the maps of the folder there, which end in .zarr.

    Raises MapError where there is none.
    """
    from slidescan.tools.objects.store import bucket_of

    if url.suffix == ".zarr" or find_record(url) is not None:
        return [url]
    names = (key.rpartition("/")[2] for key in bucket_of(url).folders(url.path))
    maps = sorted(name for name in names if name.endswith(".zarr") and not name.startswith("."))
    if not maps:
        raise MapError(f"{url}: neither a map nor a folder of maps (*.zarr); correct the address")
    return [url / name for name in maps]


class _Local:
    """A folder: hidden ones beside it, renames, and a lock of the file system."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def check_target(self) -> None:
        creation.check_target(self._path)

    def locked(self) -> AbstractContextManager[FileLock]:
        return creation.locked(self._path)

    def check(self, held: Held) -> None:
        if isinstance(held, creation.Lent):  # the file system keeps the others
            held.check()

    def release(self, held: Held) -> None:
        if not isinstance(held, creation.Lent):
            release(held)  # type: ignore[arg-type]  # what `locked` gave

    def create(self, blank: Blank, overwrite: bool, name: str | None = None) -> None:
        creation.create(self._path, blank, overwrite, name)

    @property
    def successor(self) -> Path:
        return replacement.successor(self._path)

    def swap(self) -> None:
        with writing(self._path):
            replacement.swap(self._path)

    def drop(self) -> None:
        replacement.drop(self._path)
