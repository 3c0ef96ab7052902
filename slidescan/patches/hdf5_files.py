"""Open a dataset of an HDF5 file that others made, after its claims have been checked.

The HDF5 library crashes on some damaged files, and a few bytes can claim any size. So a dataset is
read only if its chunks and rows are plausible for its file and it lies in this file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from slidescan.errors import ConfigError, DataError
from slidescan.tools.regular_files import MB, open_regular

MOST_OF_A_CHUNK = 512 * MB
"""Bytes of a chunk once decompressed. PatchCamelyon's have far less."""

EXPANSION = 1100
"""zlib compresses 1032 to 1 at best (zlib.net/zlib_tech.html), the other filters less."""


@contextmanager
def open_dataset(path: Path, name: str, **options: int) -> Iterator[Any]:
    """Open a dataset for reading; `options` are those of h5py.File.

    Raises:
        ConfigError: h5py is not installed.
        DataError: no such dataset, or one whose claims cannot be true.
    """
    try:
        import h5py  # a tenth of a second that other layouts need not spend
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{path}: HDF5 needs h5py, which is not installed; pip install h5py"
        ) from error
    try:
        open_regular(path).close()
        file = h5py.File(path, "r", **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    with file:
        yield _checked(path, file, name)


def _checked(path: Path, file: Any, name: str) -> Any:
    import h5py

    try:
        link, found = file.get(name, getlink=True), file.get(name)
        others = ", ".join(file) or "nothing"
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise DataError(f"{path}: {name} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{path}: has no dataset {name}; it has {others}")
    if not isinstance(link, h5py.HardLink) or found.is_virtual or found.external:
        raise DataError(f"{path}: {name} refers to other files; copy its data into this one")
    if not found.shape:
        raise DataError(f"{path}: {name} holds nothing or a single value; name another file")
    chunk = prod(found.chunks or (1,)) * found.dtype.itemsize
    if chunk > MOST_OF_A_CHUNK:
        raise DataError(
            f"{path}: {name} has chunks of {chunk:,} bytes, at most {MOST_OF_A_CHUNK:,} are read; "
            "write it anew with smaller chunks"
        )
    claimed, stored = prod(found.shape) * found.dtype.itemsize, found.id.get_storage_size()
    if claimed > EXPANSION * stored:
        raise DataError(
            f"{path}: {name} claims {claimed:,} bytes and the file holds {stored:,} of it; it is "
            "damaged or was never filled"
        )
    return found
