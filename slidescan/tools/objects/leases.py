"""Leases in an object store, which has no locks: objects that are created only where there is none.

A holder writes its lease again every few seconds, on the condition that it is still as it left it.
One that was not written for `DURATION_S`, or whose holder was a process of this machine that has
ended, may be taken by another, on the same condition: of several, one succeeds. Ages are
differences between times of the store's own clock.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from slidescan.errors import BusyError, ConfigError, RemoteError
from slidescan.tools.leases import DURATION_S, ENDING, HEARTBEATS, Holder
from slidescan.tools.objects.bucket import Bucket, Entry
from slidescan.tools.objects.store import bucket_of
from slidescan.tools.urls import Url

_held: set[str] = set()
"""The tokens of the leases that this process holds."""


@cache
def _machine() -> str:
    """This machine and its process numbers: those of another container are others."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "?".join(parts)


class ObjectLease:
    """One lease, held by this process between `acquire` and `release`."""

    def __init__(self, url: Url) -> None:
        self.url = url
        self._bucket = bucket_of(url)
        self._token = uuid4().hex
        self._beats = 0
        self._tag: str | None = None
        self._held_until = 0.0
        self._ended = threading.Event()

    def acquire(self) -> bool:
        """Take the lease; false where another process holds it.

        Raises:
            ConfigError: the store ignores the condition, so it cannot keep two processes apart.
            RemoteError: the store cannot be reached.
        """
        # Before it is there: another thread of this process would take it for one that was left.
        _held.add(self._token)
        try:
            taken = self._take()
        except BaseException:
            _held.discard(self._token)
            raise
        if not taken:
            _held.discard(self._token)
        return taken

    def _take(self) -> bool:
        started = time.monotonic()
        content = self._content()
        self._tag = self._bucket.create(self.url.path, content)
        if self._tag is None:
            found = self._bucket.get(self.url.path)
            if found is None or not self._over(found[0]):
                return False
            self._tag = self._bucket.replace(self.url.path, content, found[1])
            if self._tag is None:
                return False
        elif self._bucket.create(self.url.path, self._content()) is not None:
            self._bucket.delete(self.url.path)
            raise ConfigError(
                f"{self.url}: this store writes an object although there is one already, so it "
                "cannot keep two processes apart; write the map to a folder and copy it"
            )
        self._held_until = started + DURATION_S
        if self._bucket.conditional:
            self._ended.clear()
            threading.Thread(target=self._beat, name="lease", daemon=True).start()
        return True

    def check(self) -> None:
        """Raises BusyError where the lease was lost, or could not be renewed in time."""
        if self._bucket.conditional and time.monotonic() > self._held_until:
            raise BusyError(
                f"{self.url}: the lease was lost, because the store could not be reached for "
                f"{DURATION_S:g} s or this process was paused; run the same command again"
            )

    def release(self) -> None:
        """Give the lease back, unless another has taken it."""
        if self._tag is None:
            return
        self._ended.set()
        self._tag = None
        _held.discard(self._token)
        with suppress(RemoteError):  # it ends by itself
            found = self._bucket.get(self.url.path)
            if found and _fields(found[0]).get("token") == self._token:
                self._bucket.delete(self.url.path)

    def holder(self) -> str:
        """Who holds it, for the user."""
        found = self._bucket.get(self.url.path)
        fields = _fields(found[0]) if found else {}
        host = str(fields.get("machine", "another machine")).partition("?")[0]
        return f"process {fields.get('pid', '')} on {host}"

    def _content(self) -> bytes:
        self._beats += 1  # every content has a tag of its own
        fields = {"machine": _machine(), "pid": os.getpid(), "token": self._token}
        return json.dumps(fields | {"beat": self._beats}).encode()

    def _over(self, content: bytes) -> bool:
        """Whether the holder has ended, or has given no sign for too long."""
        if not self._bucket.conditional:
            return False  # it cannot be taken safely
        fields = _fields(content)
        if fields.get("machine") == _machine():
            pid, token = fields.get("pid"), fields.get("token")
            if not _alive(pid) or (pid == os.getpid() and token not in _held):
                return True  # also where this process could not give it back
        entry = self._bucket.head(self.url.path)
        return entry is not None and age_s(self._bucket, entry) > DURATION_S

    def _beat(self) -> None:
        while not self._ended.wait(DURATION_S / HEARTBEATS):
            tag, started = self._tag, time.monotonic()
            if tag is None:
                return
            with suppress(RemoteError):  # tried again at the next beat
                new = self._bucket.replace(self.url.path, self._content(), tag)
                if new is None:
                    self._held_until = 0.0  # another has taken it
                    return
                self._tag, self._held_until = new, started + DURATION_S


def _fields(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _alive(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0 or os.name == "nt":
        return True  # Windows: a signal would end the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def age_s(bucket: Bucket, entry: Entry) -> float:
    """Seconds since an object was written, by the store's clock, which a new object shows."""
    key = f"{entry.key}.clock-{uuid4().hex}"
    bucket.put(key, b"")
    try:
        now = bucket.head(key)
    finally:
        bucket.delete(key)
    return (now.modified - entry.modified).total_seconds() if now else 0.0


class ObjectLeases:
    """The leases of this process below an address; does what `leases.Leases` does in a folder."""

    def __init__(self, folder: Url) -> None:
        """Raises ConfigError where the store has no writes on a condition."""
        self.folder = folder
        self._bucket = bucket_of(folder)
        self._held: dict[str, ObjectLease] = {}
        if not self._bucket.conditional:
            raise ConfigError(
                f"{folder.parent}: a folder of maps in this store needs obstore, which keeps "
                "several processes apart; name one map, NAME.zarr, or a folder of this machine"
            )

    def __enter__(self) -> Self:
        """Nothing to make: a store has no folders."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give all leases back."""
        for name in list(self._held):
            self.release(name)

    def claim(self, name: str) -> bool:
        """Take a lease; false where another process holds it. Raises RemoteError."""
        lease = ObjectLease(self._url(name))
        if not lease.acquire():
            return False
        self._held[name] = lease
        return True

    def release(self, name: str) -> None:
        """Give a lease back."""
        lease = self._held.pop(name, None)
        if lease is not None:
            lease.release()

    def wait(self, names: Iterable[str], poll_s: float = 2.0) -> list[str]:
        """Wait until each lease is free, expired, or seen to be alive; returns the live ones."""
        unknown = {name: self._tag(name) for name in names}
        alive = []
        end = time.monotonic() + DURATION_S
        while unknown and time.monotonic() < end:
            time.sleep(poll_s)
            for name, before in list(unknown.items()):
                now = self._tag(name)
                if now is None or now != before:
                    del unknown[name]
                    if now is not None:
                        alive.append(name)
        return alive

    def _tag(self, name: str) -> str | None:
        found = self._bucket.head(self._url(name).path)
        return found.tag if found else None

    def _url(self, name: str) -> Url:
        return self.folder / f"{name}{ENDING}"


def object_holders(folder: Url) -> dict[str, Holder]:
    """Who holds which lease below an address, by name."""
    bucket, found = bucket_of(folder), {}
    for entry in bucket.objects(folder.path):
        name = entry.key.rpartition("/")[2]
        content = bucket.get(entry.key) if name.endswith(ENDING) else None
        fields = _fields(content[0]) if content else {}
        if isinstance(fields.get("pid"), int):
            host = str(fields.get("machine", "")).partition("?")[0]
            age = max(0.0, age_s(bucket, entry))
            found[name.removesuffix(ENDING)] = Holder(host, fields["pid"], age)
    return found
