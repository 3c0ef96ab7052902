"""Leases: which of several processes, on one machine or on many, is at which piece of work.

A lease is a file in a shared folder that its holder touches every few seconds. One whose holder
ended, or has not touched it for `DURATION_S`, may be taken by another. `filelock.SoftFileLease`
does this without the locks of the file system, which shared ones often lack, and without comparing
the clocks of machines. A lease says who should work; what must not be written twice needs a lock.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from slidescan.tools.atomic_files import writing
from slidescan.tools.urls import Place, Url

DURATION_S = 60.0
"""A holder that was paused, or cut off from the disk, for so long loses its lease."""

HEARTBEATS = 3
"""Touches in this time."""

TRIES = 100
"""To take a lease: each process that ends removes the folder if nobody has one."""

ENDING = ".lease"

_RELIC = re.compile(rf"{re.escape(ENDING)}\.(break|restore)\.\d+\.[0-9a-f]{{32}}$")
"""filelock's names for a lease that is moved aside, to be deleted or put back."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease."""

    host: str
    pid: int
    seen_s: float
    """seconds since the last heartbeat, by this machine's clock"""


class Leases:
    """The leases of this process in a folder. Use it as a context manager; safe from threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._leases: dict[str, SoftFileLease] = {}
        self._empty: dict[tuple[str, int], float] = {}
        """When this process first saw a lease without content, by its name and time."""

    def __enter__(self) -> Self:
        """Create the folder."""
        self._make_folder()
        return self

    def __exit__(self, *_: object) -> None:
        """Give all leases back, and remove the folder if nobody has a lease there."""
        for name in self._leases:
            self.release(name)
        with suppress(OSError):
            left = list(self.folder.iterdir())
            # A process that is killed while it takes the lease of another leaves one of these.
            if all(_RELIC.search(path.name) for path in left):
                for path in left:
                    path.unlink()
                self.folder.rmdir()

    def claim(self, name: str) -> bool:
        """Take a lease; false where another process holds it. Raises WriteError."""
        lease = self._leases.get(name)
        if lease is None:
            # Kept for the next attempt: it knows since when the holder has given no sign.
            lease = self._leases[name] = SoftFileLease(
                self._path(name),
                lease_duration=DURATION_S,
                heartbeat_interval=DURATION_S / HEARTBEATS,
                timeout=0,
                thread_local=False,
            )
        return self._acquired(lease) or (self._dropped_empty(name) and self._acquired(lease))

    def _acquired(self, lease: SoftFileLease) -> bool:
        tries = 0
        with writing(self.folder), suppress(Timeout, LeaseSettingsMismatch):
            while True:
                try:
                    lease.acquire()
                    return True
                # filelock makes the folder, or finds it there, and it is gone at the next moment.
                except (FileNotFoundError, FileExistsError):
                    tries += 1
                    if tries == TRIES:
                        raise
        return False

    def _dropped_empty(self, name: str) -> bool:
        """Delete a lease that has been without content for `DURATION_S`; whether there was one.

        A power failure may take what a lease says. filelock would wait for its holder for ever.
        """
        path = self._path(name)
        with suppress(OSError):
            found = path.stat()
            seen = self._empty.setdefault((name, found.st_mtime_ns), time.monotonic())
            if found.st_size == 0 and time.monotonic() - seen >= DURATION_S:
                path.unlink()
                return True
        return False

    def release(self, name: str) -> None:
        """Give a lease back."""
        lease = self._leases.get(name)
        if lease is not None and lease.is_locked:
            with suppress(OSError):  # taken by another after a long pause
                lease.release()

    def wait(self, names: Iterable[str], poll_s: float = 0.2) -> list[str]:
        """Wait until each lease is free, expired, or seen to be alive; returns the live ones.

        Alive are those whose holder gives a sign. Takes `DURATION_S` at most.
        """
        unknown = {name: self._touched(name) for name in names}
        alive = []
        end = time.monotonic() + DURATION_S
        while unknown and time.monotonic() < end:
            time.sleep(poll_s)
            for name, before in list(unknown.items()):
                now = self._touched(name)
                if now is None or now != before:
                    del unknown[name]
                    if now is not None:
                        alive.append(name)
        return alive

    def _touched(self, name: str) -> int | None:
        try:
            return self._path(name).stat().st_mtime_ns
        except OSError:
            return None

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{ENDING}"

    def _make_folder(self) -> None:
        # Not `exist_ok=True`, which looks again, and fails if it has been removed meanwhile.
        with writing(self.folder), suppress(FileExistsError):
            self.folder.mkdir()


class AnyLeases(Protocol):
    """What `Leases` and the leases of an object store have in common."""

    def __enter__(self) -> AnyLeases: ...

    def __exit__(self, *_: object) -> None: ...

    def claim(self, name: str) -> bool: ...

    def release(self, name: str) -> None: ...

    def wait(self, names: Iterable[str]) -> list[str]: ...


def leases_in(folder: Place) -> AnyLeases:
    """The leases of this process in a folder or an object store.

    Raises ConfigError where the store cannot keep processes apart.
    """
    if isinstance(folder, Url):
        from slidescan.tools.objects.leases import ObjectLeases

        return ObjectLeases(folder)
    return Leases(folder)


def holders(folder: Place) -> dict[str, Holder]:
    """Who holds which lease in a folder, by name; of leases that can be read."""
    if isinstance(folder, Url):
        from slidescan.tools.objects.leases import object_holders

        return object_holders(folder)
    found = {}
    for path in folder.glob(f"*{ENDING}") if folder.is_dir() else ():
        with suppress(OSError, ValueError, KeyError):
            lines = path.read_text(encoding="utf-8").splitlines()[1:]
            fields = dict(line.split("=", 1) for line in lines if line)
            seen_s = max(0.0, time.time() - path.stat().st_mtime)
            found[path.name.removesuffix(ENDING)] = Holder(
                fields["host"].partition("?")[0], int(fields["pid"]), seen_s
            )
    return found
