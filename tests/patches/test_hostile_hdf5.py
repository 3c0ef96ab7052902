"""HDF5 files that claim what cannot be: refused before the library reads any data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from slidescan.errors import DataError
from slidescan.patches.hdf5_files import open_dataset
from slidescan.patches.sources import HDF5

SHAPE = (96, 96, 3)


def large_chunk(file: h5py.File) -> None:
    file.create_dataset("x", (140_000, *SHAPE), "u1", chunks=(140_000, *SHAPE), compression="gzip")


def many_rows(file: h5py.File) -> None:
    file.create_dataset("x", (10**9, *SHAPE), "u1", chunks=(1, *SHAPE), compression="gzip")


def null(file: h5py.File) -> None:
    file.create_dataset("x", data=h5py.Empty("u1"))


def single(file: h5py.File) -> None:
    file.create_dataset("x", data=np.uint8(3))


def loop(file: h5py.File) -> None:
    file["x"] = h5py.SoftLink("/y")
    file["y"] = h5py.SoftLink("/x")


def elsewhere(file: h5py.File) -> None:
    file["x"] = h5py.ExternalLink("other.h5", "x")


def raw_file(file: h5py.File) -> None:
    file.create_dataset("x", (1, *SHAPE), "u1", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((1, *SHAPE), "u1")
    layout[0] = h5py.VirtualSource("other.h5", "x", SHAPE)
    file.create_virtual_dataset("x", layout)


def group(file: h5py.File) -> None:
    file.create_group("x")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (large_chunk, "chunks of 3,870,720,000 bytes, at most 536,870,912"),
        (many_rows, "claims 27,648,000,000,000 bytes and the file holds 0"),
        (null, "holds nothing or a single value"),
        (single, "holds nothing or a single value"),
        (loop, "x"),
        (elsewhere, "x"),
        (raw_file, "refers to other files"),
        (virtual, "refers to other files"),
        (group, "has no dataset x; it has x"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_is_refused(
    make: Callable[[h5py.File], None], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        make(file)
    with pytest.raises(DataError) as told:
        HDF5(path)
    assert str(told.value).startswith(f"{path}: ")
    assert words in str(told.value)


def test_well_compressed_patches_are_read(tmp_path: Path) -> None:
    """Glass compresses best of all."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        glass = np.full((512, *SHAPE), 255, np.uint8)
        file.create_dataset("x", data=glass, chunks=(128, *SHAPE), compression="gzip")
    with open_dataset(path, "x") as x:
        assert (x[:4] == 255).all()
