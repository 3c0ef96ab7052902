"""Decode patches into the cache's array, in processes that import few modules."""

from __future__ import annotations

import hashlib
import multiprocessing
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import DataError
from slidescan.geometry import PATCH_PX
from slidescan.patches.decoding import MOST_BYTES, SHAPE, Bad, decode, told
from slidescan.patches.hdf5_files import Dataset, open_dataset
from slidescan.tools.hardware import cores
from slidescan.tools.regular_files import TOO_MANY_FILES, read_regular
from slidescan.tools.worker_processes import obey_parent, sigint_blocked

PATCH_BYTES = PATCH_PX * PATCH_PX * 3
BLANK = np.zeros(SHAPE, np.uint8)
FEW = 3000
"""Up to so many patches are read faster than worker processes start."""
HASH = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is recorded of a patch while it is copied."""

    digest: str
    """SHA-256 of the 96 x 96 x 3 bytes in the array, which are zeros if `bad`."""
    misnamed: bool = False
    """The file name looks like a SHA-1 but is not that of the pixels."""
    bad: Bad | None = None


class Piece(Protocol):
    """Patches that are read together."""

    def __len__(self) -> int: ...

    def patches(self) -> Iterator[tuple[str, NDArray[np.uint8] | Bad]]:
        """The name and the (96, 96, 3) RGB of each patch."""


@dataclass(frozen=True, slots=True)
class Files:
    """Patches with a file each."""

    root: Path
    names: Sequence[str]
    """Paths below `root`."""

    def __len__(self) -> int:
        return len(self.names)

    def patches(self) -> Iterator[tuple[str, NDArray[np.uint8] | Bad]]:
        """Decode the files with Pillow."""
        for name in self.names:
            yield name, read_image(f"{self.root}/{name}")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the dataset x of an HDF5 file, close together and in rising order."""

    path: Path
    rows: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.rows)

    def patches(self) -> Iterator[tuple[str, NDArray[np.uint8] | Bad]]:
        """Read the rows and all between them, which are in the same compressed chunks."""
        first, last = int(self.rows[0]), int(self.rows[-1])
        with open_dataset(self.path, "x") as x:
            try:
                block = x.rows(first, last + 1)
            except OSError:
                yield from (("", _row(x, int(row))) for row in self.rows)
                return
        yield from (("", block[row - first]) for row in self.rows)


def _row(x: Dataset, row: int) -> NDArray[np.uint8] | Bad:
    try:
        patch: NDArray[np.uint8] = x.rows(row, row + 1)[0]
    except OSError as error:
        return Bad(told(error))
    return patch


def read_image(path: str) -> NDArray[np.uint8] | Bad:
    """Read an image: (96, 96, 3) RGB, or the reason why not."""
    try:
        content = read_regular(path, MOST_BYTES)
    except OSError as error:
        if error.errno in TOO_MANY_FILES:
            raise
        return Bad(f"cannot be read: {told(error)}")
    plain = _plain(content, _stem(path))
    return decode(content) if plain is None else plain


def _plain(content: bytes, stem: str) -> NDArray[np.uint8] | None:
    """Read the pixels of an uncompressed file that is named by their SHA-1.

    This is six times as fast as decoding, and the name proves the pixels. Pillow writes them at the
    end of a TIFF, libtiff after its header of 8 bytes.
    """
    for start in (len(content) - PATCH_BYTES, 8):
        pixels = memoryview(content)[start : start + PATCH_BYTES]
        if start > 0 and len(pixels) == PATCH_BYTES and _sha1(pixels) == stem:
            return np.frombuffer(pixels, np.uint8).reshape(SHAPE)
    return None


def copy(piece: Piece, target: Path, offset: int) -> list[Entry]:
    """Copy `piece` into the file `target` from byte `offset` on.

    The file is written, not mapped: on a full disk a mapped file would kill the process.
    """
    entries = []
    with warnings.catch_warnings(), target.open("r+b") as file:
        # Pillow warns of tags that are not needed, and of files that it then refuses.
        warnings.filterwarnings("ignore", module="PIL")
        file.seek(offset)
        for name, patch in piece.patches():
            bad = patch if isinstance(patch, Bad) else None
            pixels = BLANK if isinstance(patch, Bad) else patch
            file.write(pixels.data)
            entries.append(Entry(digest(pixels), bad is None and _misnamed(name, pixels), bad))
    return entries


def digest(patch: NDArray[np.uint8]) -> str:
    """SHA-256 of the bytes, in hex."""
    return hashlib.sha256(patch.data).hexdigest()


def _sha1(pixels: memoryview) -> str:
    return hashlib.sha1(pixels, usedforsecurity=False).hexdigest()


def _stem(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0]


def _misnamed(name: str, patch: NDArray[np.uint8]) -> bool:
    stem = _stem(name)
    return HASH.fullmatch(stem) is not None and _sha1(patch.data) != stem


def copy_all(
    pieces: Sequence[Piece], target: Path, offset: int, progress: Callable[..., Any] | None
) -> list[Entry]:
    """Copy all pieces one after the other, on all processors; `progress` has tqdm's signature."""
    lengths = [len(piece) for piece in pieces]
    starts = (offset + PATCH_BYTES * np.cumsum([0, *lengths[:-1]])).tolist()
    total = sum(lengths)
    jobs = (pieces, [target] * len(pieces), starts)
    show = progress or (lambda entries, **_: entries)
    about = {"total": total, "desc": "reading patches", "unit": "patch"}
    if total < FEW:
        return list(show(chain.from_iterable(map(copy, *jobs)), **about))
    # Decoding holds the interpreter's lock, so threads would be slower than one. Not forked:
    # torch's and OpenMP's threads may hold locks that would never be released.
    pool = ProcessPoolExecutor(
        cores(), multiprocessing.get_context("spawn"), initializer=obey_parent
    )
    try:
        with sigint_blocked():
            copied = pool.map(copy, *jobs)
        return list(show(chain.from_iterable(copied), **about))
    except BrokenProcessPool as error:
        raise DataError(
            "a process that reads patches ended early: killed, short of memory, or called from a "
            "script without `if __name__ == '__main__':`"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
