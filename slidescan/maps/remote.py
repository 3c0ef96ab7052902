"""A map in an object store, which has neither renames nor locks: what takes their place.

An object is put as a whole or not at all. The root's metadata, `zarr.json`, is the object that
makes a map: it is put last when a map is made, deleted first when one is replaced, and it alone
says that a map is complete. A lease beside the map, `.NAME.lock`, keeps other writers away. A map
that replaces a finished one is written as `.NAME.new` and then copied by the store itself; a
process that is killed while it is copied leaves a complete successor, and the next one copies it
again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from slidescan.errors import BusyError, MapError, RemoteError
from slidescan.maps.layout import laid
from slidescan.maps.record import Blank, find_record, new_record
from slidescan.tools.objects.leases import ObjectLease
from slidescan.tools.objects.store import bucket_of, copy_all, put_all
from slidescan.tools.settings_diff import encodable
from slidescan.tools.urls import WEB, Url

if TYPE_CHECKING:
    from slidescan.maps.places import Held

ROOT = "zarr.json"

MARK = ".slidescan-unfinished"
"""An object that says that what lies here without a root is slidescan's: a map that was being made
or deleted by a process that ended. It is there only meanwhile."""


class Remote:
    """Keeps a map at an address; fulfils `places.Keeping`."""

    def __init__(self, url: Url) -> None:
        self.url = url
        self._bucket = bucket_of(url)

    @property
    def successor(self) -> Url:
        """Where the map that is to replace this one is written."""
        return self.url.with_name(f".{self.url.name}.new")

    def check_target(self) -> None:
        """Refuse a server that takes no files, a whole bucket, and objects that are no map.

        Raises MapError.
        """
        if self.url.scheme in WEB:
            raise MapError(f"{self.url}: a web server takes no maps; name a folder or a bucket")
        if not self.url.path:
            raise MapError(f"{self.url}: is a whole bucket; name the map in it, NAME.zarr")
        objects = [] if find_record(self.url) is not None else self._objects(self.url)
        if objects and f"{self.url.path}/{MARK}" not in objects:
            raise MapError(f"{self.url}: not a slidescan map, so left alone; choose another --out")

    @contextmanager
    def locked(self) -> Iterator[ObjectLease]:
        """Take the lease and finish a replacement that was killed.

        Raises BusyError where another process holds it.
        """
        self._refuse_web()
        lease = ObjectLease(self.url.with_name(f".{self.url.name}.lock"))
        if not lease.acquire():
            raise BusyError(
                f"{self.url}: another slidescan is writing it ({lease.holder()}); wait for it or "
                "choose another --out. The lease of one that was killed ends after a minute"
            )
        try:
            if _is_complete(self.successor):
                self.swap()
            yield lease
        except BaseException:
            lease.release()
            raise

    def _refuse_web(self) -> None:
        if self.url.scheme in WEB:
            raise MapError(f"{self.url}: a web server takes no maps; name a folder or a bucket")

    def check(self, held: Held) -> None:
        """Raises BusyError where the lease was lost."""
        if isinstance(held, ObjectLease):
            held.check()

    def release(self, held: Held) -> None:
        """Give the lease back."""
        held.release()

    def create(self, blank: Blank, overwrite: bool, name: str | None = None) -> None:
        """Write an empty map: the root's metadata last, so that before there is none.

        Raises MapError where the place is taken.
        """
        record = new_record(blank)
        self.check_target()
        if find_record(self.url) is not None and not overwrite:
            raise MapError(f"{self.url}: exists; pass --overwrite or choose another --out")
        if self._objects(self.url):
            self._clear(self.url)
        mark = f"{self.url.path}/{MARK}"
        self._bucket.put(mark, b"")
        objects = laid(encodable(name or self.url.stem), record, blank["mask"])
        root = objects.pop(ROOT)
        put_all(self._bucket, {f"{self.url.path}/{key}": each for key, each in objects.items()})
        self._bucket.put(f"{self.url.path}/{ROOT}", root)
        self._bucket.delete(mark)

    def swap(self) -> None:
        """Copy the successor to the place of the map, and delete it. Raises RemoteError."""
        source = self.successor
        self._clear(self.url)
        keys = {key: self.url.path + key.removeprefix(source.path) for key in self._objects(source)}
        root = f"{source.path}/{ROOT}"
        copy_all(self._bucket, {key: to for key, to in keys.items() if key != root})
        self._bucket.copy(root, keys[root])
        self._clear(source)

    def drop(self) -> None:
        """Delete an incomplete successor. Raises RemoteError."""
        if find_record(self.successor) is not None:
            self._clear(self.successor)

    def _objects(self, url: Url) -> list[str]:
        return [each.key for each in self._bucket.objects(url.path)]

    def _clear(self, url: Url) -> None:
        """Delete a map, its root's metadata first: a part of a map is none."""
        mark = f"{url.path}/{MARK}"
        self._bucket.put(mark, b"")
        self._bucket.delete(f"{url.path}/{ROOT}")
        self._bucket.delete(*(key for key in self._objects(url) if key != mark))
        self._bucket.delete(mark)


def _is_complete(url: Url) -> bool:
    try:
        record = find_record(url)
    except RemoteError:
        raise
    except MapError:
        return False
    return record is not None and record.get("complete") is True
