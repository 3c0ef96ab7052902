"""All patches of a folder in one memory-mapped file, built once and checked by content.

`patches.npy` holds the pixels, uint8 (N, 96, 96, 3), in the order of the ids. `patches.json` beside
it has the files they were read from, the SHA-256 of each patch, and what could not be read. The
cache is built again if files have changed since or if pixels do not match their SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path
from pydantic import BaseModel, ConfigDict

from slidescan.errors import WriteError
from slidescan.patches.decoding import SHAPE
from slidescan.patches.labelled import reading
from slidescan.patches.labelled.defects import Kind
from slidescan.patches.labelled.listing import Listing
from slidescan.patches.labelled.reading import PATCH_BYTES, Entry
from slidescan.tools.atomic_files import lock, release, replacing
from slidescan.tools.hardware import cores

WAIT_S = 3600.0
"""Longest wait for another process that is building the same cache."""
BLOCK = 256
"""Patches to check at once: 7 MB."""

Say = Callable[[str], None]
Progress = Callable[..., Any]


class Unread(BaseModel):
    """A row of zeros and the reason why it has no pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    row: int
    kind: Kind
    detail: str


class Index(BaseModel):
    """The content of `patches.json`, which describes `patches.npy`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1
    source: str
    """`Listing.fingerprint` of the files that were read."""
    digests: tuple[str, ...]
    """SHA-256 of each row."""
    unread: tuple[Unread, ...]
    misnamed: tuple[int, ...]
    """Rows whose file name looks like a SHA-1 but is not that of the pixels."""


@dataclass(frozen=True, slots=True)
class Cached:
    """The pixels of a listing's patches."""

    path: Path
    stored: NDArray[np.uint8]
    """(M, 96, 96, 3), memory-mapped."""
    rows: NDArray[np.intp]
    """(N,): the row in `stored` of each patch of the listing."""
    digests: tuple[str, ...]
    """(N,): SHA-256 of each patch's pixels."""
    unread: tuple[Unread, ...]
    """`row` is the one in the listing."""
    misnamed: NDArray[np.bool_]
    """(N,), true where the file name looks like a SHA-1 but is not that of the pixels."""


class _UnusableError(Exception):
    """The reason why a cache cannot be used; empty if there is none."""


def load_cache(
    listing: Listing,
    chosen: NDArray[np.intp] | None = None,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Cached:
    """The pixels of `listing`, or of its rows `chosen`, from a cache that is built if needed.

    A cache of all patches serves the chosen ones too. `progress` has tqdm's signature; `say` gets a
    line for each step that takes long. Scripts must call this under `if __name__ == "__main__"`,
    because worker processes read many patches.

    Raises:
        WriteError: there is no room or no right to write the cache.
    """
    say = say or (lambda _: None)
    folders = _folders(listing.root, cache)
    candidates = [(folder / "patches.npy", listing, chosen) for folder in folders]
    if chosen is not None:
        listing = listing.take(chosen)
        candidates += [(folder / _name(listing), listing, None) for folder in folders]
    reasons: dict[Path, str] = {}
    for path, source, rows in candidates:
        try:
            return _open(path, source, rows, progress)
        except _UnusableError as error:
            reasons[path] = str(error)
    folder = next(filter(_writable, folders), folders[-1])
    path = folder / ("patches.npy" if chosen is None else _name(listing))
    if reasons[path]:
        say(f"{path}: {reasons[path]}; building it anew")
    return _build(path, listing, progress, say)


def _folders(root: Path, cache: Path | None) -> list[Path]:
    """Folders that may hold the cache; it is built in the first that can be written to."""
    root = root.resolve()
    name = f"{root.name}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}"
    if cache:
        return [cache / name]
    return [root / ".slidescan", user_cache_path("slidescan") / name]


def _name(chosen: Listing) -> str:
    key = hashlib.sha256("\n".join(chosen.ids).encode()).hexdigest()
    return f"chosen-{key[:16]}.npy"


def _writable(folder: Path) -> bool:
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return os.access(there, os.W_OK | os.X_OK)


def _open(
    path: Path, listing: Listing, chosen: NDArray[np.intp] | None, progress: Progress | None
) -> Cached:
    try:
        index = Index.model_validate_json(path.with_suffix(".json").read_bytes())
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _UnusableError from error
    except (OSError, EOFError, ValueError) as error:  # pydantic's error is a ValueError
        raise _UnusableError("damaged") from error
    if index.source != listing.fingerprint():
        raise _UnusableError("the patches' files have changed since it was built")
    if stored.shape != (len(listing), *SHAPE) or stored.dtype != np.uint8:
        raise _UnusableError("damaged")
    rows = np.arange(len(listing)) if chosen is None else chosen
    if not _intact(stored, rows, index.digests, progress):
        raise _UnusableError("damaged, its pixels have changed")
    return _cached(path, stored, rows, index)


def _intact(
    stored: NDArray[np.uint8],
    rows: NDArray[np.intp],
    digests: Sequence[str],
    progress: Progress | None,
) -> bool:
    """Whether `stored` has these digests at `rows`, which are in rising order."""
    if len(digests) != len(stored):
        return False
    blocks = np.array_split(rows, -(-len(rows) // BLOCK))

    def same(block: NDArray[np.intp]) -> bool:
        return all(reading.digest(stored[row]) == digests[row] for row in block)

    # hashlib releases the interpreter's lock.
    with ThreadPoolExecutor(cores()) as pool:
        checked: Iterable[bool] = pool.map(same, blocks)
        if progress:
            checked = progress(checked, total=len(blocks), desc="checking the cache", unit="block")
        return all(list(checked))


def _cached(path: Path, stored: NDArray[np.uint8], rows: NDArray[np.intp], index: Index) -> Cached:
    place = np.full(len(stored), -1)
    place[rows] = np.arange(len(rows))
    misnamed = np.zeros(len(stored), bool)
    misnamed[list(index.misnamed)] = True
    return Cached(
        path,
        stored,
        rows,
        tuple(index.digests[row] for row in rows),
        tuple(
            bad.model_copy(update={"row": int(place[bad.row])})
            for bad in index.unread
            if place[bad.row] >= 0
        ),
        misnamed[rows],
    )


def _build(path: Path, listing: Listing, progress: Progress | None, say: Say) -> Cached:
    with _only_builder(path, say):
        try:
            # Another process may have built it during the wait.
            return _open(path, listing, None, progress)
        except _UnusableError:
            pass
        for stray in (path, path.with_suffix(".json"), *_temporaries(path)):
            stray.unlink(missing_ok=True)
        _check_room(path, len(listing), say)
        with replacing(path) as beside:
            stored = np.lib.format.open_memmap(beside, "w+", np.uint8, (len(listing), *SHAPE))
            offset = stored.offset
            del stored
            entries = reading.copy_all(listing.pieces(), beside, offset, progress)
        index = _index(listing, entries)
        with replacing(path.with_suffix(".json")) as beside:
            beside.write_text(index.model_dump_json(), encoding="utf-8")
    stored = np.load(path, mmap_mode="r", allow_pickle=False)
    return _cached(path, stored, np.arange(len(listing)), index)


@contextmanager
def _only_builder(path: Path, say: Say) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"{path.parent}: cannot be made ({error.strerror}); choose a folder for the cache "
            "with --cache"
        ) from error
    try:
        held = lock(path)
    except WriteError as error:
        if error.__cause__:  # no permission to write
            raise
        say(f"{path}: another process is building this cache; waiting for it")
        held = lock(path, WAIT_S)
    try:
        yield
    finally:
        release(held)


def _temporaries(path: Path) -> Iterator[Path]:
    """Temporary files of killed processes, by the names of `tools.atomic_files.replacing`."""
    for suffix in (".npy", ".json"):
        yield from path.parent.glob(f".{path.stem}-*{suffix}")


def _check_room(path: Path, patches: int, say: Say) -> None:
    needed = patches * (PATCH_BYTES + 100)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise WriteError(
            f"{path.parent}: the cache needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            "make room or choose another folder with --cache"
        )
    say(
        f"{path}: building the cache of {patches} patches, {needed / 1e9:.1f} GB of "
        f"{free / 1e9:.1f} GB free"
    )


def _index(listing: Listing, entries: Sequence[Entry]) -> Index:
    return Index(
        source=listing.fingerprint(),
        digests=tuple(entry.digest for entry in entries),
        unread=tuple(
            Unread(row=row, kind=entry.bad.kind, detail=entry.bad.detail)
            for row, entry in enumerate(entries)
            if entry.bad
        ),
        misnamed=tuple(row for row, entry in enumerate(entries) if entry.misnamed),
    )
