"""The HDF5 library in a process of its own, which `hdf5_files` starts. The only importer of h5py.

It checks what a file claims before it reads: the library crashes on some damaged files, and a few
bytes can claim any size.
"""

from __future__ import annotations

from math import prod
from typing import Any

import h5py
import numpy as np

from slidescan.tools.child_service import AnswerError, Methods, serve
from slidescan.tools.regular_files import MB

MOST_OF_A_CHUNK = 512 * MB
"""Bytes of a chunk once decompressed. PatchCamelyon's have far less."""

EXPANSION = 1100
"""zlib compresses 1032 to 1 at best (zlib.net/zlib_tech.html), the other filters less."""

CACHE_BYTES = 512 * MB
"""Limit of the memory for decompressed chunks."""

SLOTS = 100_003
"""Of the hash table of chunks: enough that they rarely collide."""

ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError)
"""What h5py raises for damaged files."""


class Reader:
    """One open dataset at a time."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._file: Any = None
        self._dataset: Any = None

    def methods(self) -> Methods:
        """What the parent can ask for."""
        return {"open": self.open, "read": self.read, "close": self.close}

    def open(self, path: str, name: str) -> dict[str, Any]:
        """Open a dataset, and describe it."""
        try:
            self.close()
            with h5py.File(path, "r") as file:
                chunk_bytes = _chunk_bytes(_checked(file, name))
            # The rows of a call may end within a chunk, which the next call then has in the cache.
            cache = min(CACHE_BYTES, 2 * chunk_bytes)
            self._file = h5py.File(path, "r", rdcc_nbytes=cache, rdcc_nslots=SLOTS)
            found = self._dataset = self._file[name]
            return {"shape": found.shape, "dtype": found.dtype.str, "chunks": found.chunks}
        except ERRORS as error:
            raise AnswerError(f"cannot be read: {_one_line(error)}") from error

    def close(self) -> None:
        """Close the file."""
        self._dataset = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self, first: int, last: int, start: int) -> None:
        """Read rows [first, last) into the memory from byte `start` on."""
        x = self._dataset
        shape = last - first, *x.shape[1:]
        try:
            out = np.frombuffer(self._memory, x.dtype, prod(shape), start).reshape(shape)
            x.read_direct(out, np.s_[first:last])
        except ERRORS as error:
            raise AnswerError(_one_line(error)) from error


def _checked(file: Any, name: str) -> Any:
    """A dataset of plausible claims. Raises AnswerError."""
    link, found = file.get(name, getlink=True), file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise AnswerError(f"has no dataset {name}; it has {', '.join(file) or 'nothing'}")
    if not isinstance(link, h5py.HardLink) or found.is_virtual or found.external:
        raise AnswerError(f"{name} refers to other files; copy its data into this one")
    if not found.shape:
        raise AnswerError(f"{name} holds nothing or a single value; name another file")
    chunk = _chunk_bytes(found)
    if chunk > MOST_OF_A_CHUNK:
        raise AnswerError(
            f"{name} has chunks of {chunk:,} bytes, at most {MOST_OF_A_CHUNK:,} are read; write it "
            "anew with smaller chunks"
        )
    claimed, stored = prod(found.shape) * found.dtype.itemsize, found.id.get_storage_size()
    if claimed > EXPANSION * stored:
        raise AnswerError(
            f"{name} claims {claimed:,} bytes and the file holds {stored:,} of it; it is damaged "
            "or was never filled"
        )
    return found


def _chunk_bytes(dataset: Any) -> int:
    size: int = prod(dataset.chunks or (1,)) * dataset.dtype.itemsize
    return size


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    serve(lambda memory: Reader(memory).methods())
