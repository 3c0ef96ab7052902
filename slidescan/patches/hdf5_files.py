"""Open a dataset of an HDF5 file that others made.

The HDF5 library crashes on some damaged files. It runs in a process of its own, so that a crash is
an error of one line.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import ConfigError, DataError
from slidescan.tools.child_pool import ChildPool
from slidescan.tools.child_process import CallError, Child, ChildEndedError
from slidescan.tools.regular_files import MB, open_regular

ROOM_BYTES = 16 * MB
"""Of the memory for the rows of one call: 600 patches."""

PROCESSES = ChildPool("slidescan.patches.hdf5_process", rooms=1, room_bytes=ROOM_BYTES, most=1)


class Dataset:
    """An open dataset: an array of numbers, whose first axis are rows."""

    def __init__(self, path: Path, name: str, child: Child) -> None:
        """Open it. Raises CallError or ChildEndedError."""
        self._path, self._child = path, child
        found = child.call("open", path=str(path.absolute()), name=name)
        self.shape: tuple[int, ...] = tuple(found["shape"])
        self.dtype = np.dtype(found["dtype"])
        self.chunks = None if found["chunks"] is None else tuple(found["chunks"])

    @property
    def size(self) -> int:
        """The number of values."""
        return prod(self.shape)

    def rows(self, first: int, last: int) -> NDArray[Any]:
        """Rows [first, last), (last - first, ...).

        Raises:
            OSError: they cannot be decoded.
            DataError: the library crashed at them.
        """
        out = np.empty((last - first, *self.shape[1:]), self.dtype)
        step = max(1, ROOM_BYTES // max(1, out[:1].nbytes))
        for row in range(first, last, step):
            until = min(last, row + step)
            self._read(row, until, out[row - first : until - first])
        return out

    def _read(self, first: int, last: int, out: NDArray[Any]) -> None:
        if out.nbytes > ROOM_BYTES:
            raise DataError(f"{self._path}: a row has {out.nbytes:,} bytes, more than is read")
        try:
            with self._child.room() as (start, room):
                self._child.call("read", first=first, last=last, start=start)
                out[...] = np.frombuffer(room, self.dtype, out.size).reshape(out.shape)
        except CallError as error:
            raise OSError(str(error)) from error
        except ChildEndedError as error:
            raise DataError(
                f"{self._path}: HDF5 crashed at rows {first} to {last - 1} ({error}); the file is "
                "damaged, compare it with its source"
            ) from error


@contextmanager
def open_dataset(path: Path, name: str) -> Iterator[Dataset]:
    """Open a dataset for reading.

    Raises:
        ConfigError: h5py is not installed.
        DataError: no such dataset, or one whose claims cannot be true.
    """
    if importlib.util.find_spec("h5py") is None:
        raise ConfigError(f"{path}: HDF5 needs h5py, which is not installed; pip install h5py")
    try:
        open_regular(path).close()
        child = PROCESSES.take()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    try:
        try:
            dataset = Dataset(path, name, child)
        except CallError as error:
            raise DataError(f"{path}: {error}") from error
        except ChildEndedError as error:
            raise DataError(
                f"{path}: HDF5 crashed while opening it ({error}); the file is damaged, compare it "
                "with its source"
            ) from error
        yield dataset
    finally:
        PROCESSES.keep(child)
