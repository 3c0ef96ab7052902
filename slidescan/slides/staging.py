"""Slides by their addresses: copied into a bounded folder of this machine, because OpenSlide reads
files alone.

    CACHE/DIGEST/          of the address
      source.json          size and tag that the store states, and how often it was fetched
      part                 what has arrived; a fetch that was stopped goes on here
      slide.svs            the slide, under its own name, once it is whole
      in-use-HOST-PID-N    a process reads it; one that has ended does not count

A fetch goes on only if size and tag are still those of its beginning. What was not used for longest
leaves when the folder is full, but nothing that is in use.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TypeVar

from platformdirs import user_cache_path

from slidescan.errors import ConfigError, SlideError, SlidescanError, WriteError
from slidescan.protocols import OpenBar, no_bar
from slidescan.tools.atomic_files import lock, release, replacing, writing
from slidescan.tools.settings_diff import JSON
from slidescan.tools.urls import WEB, Place, Url

FOLDER_VARIABLE = "SLIDESCAN_SLIDE_CACHE"
LIMIT_VARIABLE = "SLIDESCAN_SLIDE_CACHE_GB"

LIMIT_GB = 100.0
GB = 10**9

SEVERAL_FILES = (".mrxs", ".dcm", ".vms", ".vmu")
"""Slides of several files, which an address does not name."""

ATTEMPTS = 4
"""Times that a fetch whose connection is cut goes on without progress."""

WAIT_S = 24 * 3600.0
"""For another process that fetches the same slide."""

POLL_S = 1.0

Item = TypeVar("Item")

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Source:
    """What a store states of a file."""

    size: int
    tag: str

    def record(self, url: Url) -> dict[str, JSON]:
        """What a map records of where its slide came from."""
        return {"url": str(url), "bytes": self.size, "tag": self.tag}


class Stage:
    """The folder of fetched slides. Safe from threads, and for several processes."""

    def __init__(self, folder: Path | None = None, limit_gb: float | None = None) -> None:
        """`None` takes what the environment names, or else the user's cache folder and 100 GB.

        Raises ConfigError where the environment names no number.
        """
        self.folder = folder or _usual_folder()
        self.limit_bytes = int((_usual_limit() if limit_gb is None else limit_gb) * GB)

    @contextmanager
    def local(self, slide: Place, bar: OpenBar = no_bar, *, wait: bool = True) -> Iterator[Path]:
        """The slide as a file, which stays while the body runs; a path is given as it is.

        Where the folder is full of slides in use, `wait` waits for them.

        Raises:
            SlideError: there is no such slide, it changed meanwhile, or it has several files.
            WriteError: the folder cannot be written, or is too small.
            RemoteError: the store cannot be reached.
        """
        if isinstance(slide, Path):
            yield slide
            return
        entry = _Entry(self, slide)
        with entry.used():
            yield entry.fetch(bar, wait=wait)

    def prefetch(self, slide: Place) -> None:
        """Fetch a slide that will be needed; what is wrong shows when it is."""
        with suppress(SlidescanError), self.local(slide, wait=False):
            pass

    def ahead(self, items: Iterable[Item], slide_of: Callable[[Item], Place]) -> Iterator[Item]:
        """Yield the items in order; while one is used, the slide of the next is fetched.

        An item is taken before it is needed only where the one before has an address.
        """
        rest = iter(items)
        following = next(rest, None)
        while following is not None:
            item, following = following, None
            if isinstance(slide_of(item), Url):
                following = next(rest, None)
                if following is not None and isinstance(slide := slide_of(following), Url):
                    Thread(target=self.prefetch, args=(slide,), daemon=True).start()
            yield item
            following = following or next(rest, None)

    def make_room(self, size: int, keep: Path, *, wait: bool) -> None:
        """Remove slides, those unused for longest first, until `size` more bytes fit.

        With `wait`, slides that are in use are waited for.

        Raises WriteError where they do not fit.
        """
        alone = size > self.limit_bytes
        end = time.monotonic() + (WAIT_S if wait and not alone else 0)
        while True:
            over, free, used = self._remove(size, keep)
            if max(over, free) <= 0:
                return
            if not used or time.monotonic() > end:
                break
            time.sleep(POLL_S)
        if over > 0:
            raise WriteError(
                f"{self.folder}: a slide of {size / GB:.2g} GB does not fit in the "
                f"{self.limit_bytes / GB:g} GB of the folder of fetched slides; raise "
                "--slide-cache-gb, or choose another --slide-cache"
            )
        raise WriteError(
            f"{self.folder}: disk full, {free / GB:.2g} GB are missing for a slide of "
            f"{size / GB:.2g} GB; make room or choose another --slide-cache"
        )

    def _remove(self, size: int, keep: Path) -> tuple[int, int, bool]:
        """Bytes over the limit and missing on the disk at last, and whether a slide is in use."""
        entries = [path for path in self.folder.iterdir() if (path / "source.json").is_file()]
        sizes = {path: _bytes(path) for path in entries}
        over = sum(sizes.values()) - sizes.get(keep, 0) + size - self.limit_bytes
        free = size - sizes.get(keep, 0) - shutil.disk_usage(self.folder).free
        used = False
        for path in sorted(entries, key=_used_at):
            if max(over, free) <= 0:
                break
            if path == keep:
                continue
            if _in_use(path):
                used = True
                continue
            shutil.rmtree(path, ignore_errors=True)
            over, free = over - sizes[path], free - sizes[path]
        return over, free, used


class _Entry:
    """One slide of the stage."""

    def __init__(self, stage: Stage, url: Url) -> None:
        if url.suffix.lower() in SEVERAL_FILES:
            raise SlideError(
                f"{url}: a slide of several files ({url.suffix}) cannot be fetched by an address; "
                "copy its folder to this machine"
            )
        if not url.name:
            raise SlideError(f"{url}: names no file; name a slide")
        self.stage, self.url = stage, url
        self.folder = stage.folder / hashlib.sha256(str(url).encode()).hexdigest()[:16]
        self.path = self.folder / url.name
        self._part = self.folder / "part"
        self._source = self.folder / "source.json"

    @contextmanager
    def used(self) -> Iterator[None]:
        """Mark the entry as in use, so that nobody removes it."""
        name = f"in-use-{socket.gethostname()}-{os.getpid()}-{next(_numbers)}"
        mark = self.folder / name
        with writing(self.stage.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            mark.touch()
        try:
            yield
        finally:
            with suppress(OSError):
                os.utime(self.folder)
            mark.unlink(missing_ok=True)

    def fetch(self, bar: OpenBar, *, wait: bool) -> Path:
        """The whole file; fetched, or gone on with, unless it is there already."""
        source = source_of(self.url)
        held = lock(self.folder / "fetch", timeout_s=WAIT_S)  # another process may be at it
        try:
            if self._recorded() != source:
                self._begin(source)
            if not self.path.exists():
                self.stage.make_room(source.size, self.folder, wait=wait)
                self._go_on(source, bar)
        finally:
            release(held)
        return self.path

    def _recorded(self) -> Source | None:
        try:
            found = json.loads(self._source.read_text(encoding="utf-8"))
            return Source(int(found["bytes"]), str(found["tag"]))
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _begin(self, source: Source) -> None:
        """Forget what is there of another version of the file."""
        with writing(self.stage.folder):
            self._source.unlink(missing_ok=True)
            self._part.unlink(missing_ok=True)
            self.path.unlink(missing_ok=True)
            with replacing(self._source) as beside:
                beside.write_text(json.dumps(source.record(self.url)), encoding="utf-8")

    def _go_on(self, source: Source, bar: OpenBar) -> None:
        """Fetch the bytes that are missing, over cut connections, and check their number."""
        stuck = 0
        with bar(f"fetching {self.url.name}", source.size, "B") as progress:
            while (there := _size(self._part)) < source.size:
                try:
                    self._append(there, source, progress.update)
                except SlidescanError:
                    stuck = 0 if _size(self._part) > there else stuck + 1
                    if stuck >= ATTEMPTS:
                        raise
                else:
                    if _size(self._part) < source.size:  # the server ended early, without an error
                        stuck = 0 if _size(self._part) > there else stuck + 1
                        if stuck >= ATTEMPTS:
                            break
        if (found := _size(self._part)) != source.size or source_of(self.url) != source:
            self._part.unlink(missing_ok=True)
            raise SlideError(
                f"{self.url}: {found:,} bytes arrived and {source.size:,} are stated, or the file "
                "changed meanwhile; run the same command again"
            )
        with writing(self.stage.folder):
            self._part.replace(self.path)

    def _append(self, start: int, source: Source, update: Callable[[int], object]) -> None:
        with writing(self.stage.folder), self._part.open("ab") as file:
            for part in _stream(self.url, start, source):
                file.write(part)
                update(len(part))


def source_of(url: Url) -> Source:
    """Size and tag of a file. Raises SlideError where it is not there, or RemoteError."""
    if url.scheme in WEB:
        from slidescan.tools import web_files

        size, tag = web_files.head(url)
        return Source(size, tag)
    from slidescan.tools.objects.store import bucket_of

    entry = bucket_of(url).head(url.path)
    if entry is None:
        folder = "; of a folder, list the slides in a CSV" if not url.suffix else ""
        raise SlideError(f"{url}: no such file; correct the address{folder}")
    return Source(entry.size, entry.tag)


def source_record(slide: Place) -> dict[str, JSON]:
    """What a map records of an address that its slide came from; nothing for a path.

    Raises SlideError or RemoteError.
    """
    return {"source": source_of(slide).record(slide)} if isinstance(slide, Url) else {}


def _stream(url: Url, start: int, source: Source) -> Iterator[bytes]:
    if url.scheme in WEB:
        from slidescan.tools import web_files

        return web_files.stream(url, start, source.tag)
    from slidescan.tools.objects.store import bucket_of

    return bucket_of(url).stream(url.path, start)


def _usual_folder() -> Path:
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named)
    try:
        folder = user_cache_path("slidescan") / "slides"
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():
        raise ConfigError(
            "this user has no home for fetched slides; name a folder with --slide-cache"
        )
    return folder


def _usual_limit() -> float:
    named = os.environ.get(LIMIT_VARIABLE)
    try:
        found = float(named) if named else LIMIT_GB
    except ValueError:
        found = -1.0
    if not 0 < found < 1e9:
        raise ConfigError(f"{LIMIT_VARIABLE}={named}: expected gigabytes, e.g. 200")
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _bytes(folder: Path) -> int:
    with suppress(OSError):
        return sum(_size(path) for path in folder.iterdir())
    return 0


def _used_at(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _in_use(folder: Path) -> bool:
    """Whether a process reads the slide; one of another machine may, whose marks cannot be told."""
    here = f"in-use-{socket.gethostname()}-"
    for mark in folder.glob("in-use-*"):
        pid = mark.name.removeprefix(here).partition("-")[0]
        if not mark.name.startswith(here) or not pid.isdigit() or _alive(int(pid)):
            return True
    return False


def _alive(pid: int) -> bool:
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError as error:
        return error.errno != errno.ESRCH
    return True
