"""HDF5 files that claim what cannot be: refused before the library reads any data."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import refused, run
from maps import TORCH
from mutations import drop_a_part, flip_bits, flip_in_the_header, truncate, zero_a_part

from slidescan.errors import DataError
from slidescan.patches import hdf5_files
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
        assert (x.rows(0, 4) == 255).all()


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        noise = np.random.default_rng(0).integers(0, 256, (700, *SHAPE), np.uint8)
        file.create_dataset("x", data=noise, chunks=(64, *SHAPE), compression="gzip")
    return path


def test_rows_are_those_of_the_file(sound: Path) -> None:
    """More than one call reads, and calls begin within a chunk."""
    with h5py.File(sound) as file:
        stored = file["x"][:]
    with open_dataset(sound, "x") as x:
        assert (x.shape, x.dtype, x.chunks) == (stored.shape, np.uint8, (64, *SHAPE))
        np.testing.assert_array_equal(x.rows(0, 700), stored)
        np.testing.assert_array_equal(x.rows(33, 35), stored[33:35])


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize(
    ("method", "words"),
    [("open", "HDF5 crashed while opening it (SIGSEGV)"), ("read", "HDF5 crashed at rows 2 to 4")],
)
def test_a_crash_is_one_line(
    method: str, words: str, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(hdf5_files.PROCESSES, "module", "crashing_hdf5")
        patched.setenv("SLIDESCAN_TEST_CRASH", method)
        with pytest.raises(DataError) as told, open_dataset(sound, "x") as x:
            x.rows(2, 5)
        assert words in str(told.value)
    with open_dataset(sound, "x") as x:
        assert x.rows(2, 5).shape == (3, *SHAPE)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_predict_says_so(
    sound: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hdf5_files.PROCESSES, "module", "crashing_hdf5")
    monkeypatch.setenv("SLIDESCAN_TEST_CRASH", "read")
    out = tmp_path / "table.csv"
    refused(run("predict", sound, "--model", tiny_model, *TORCH, "--out", out), "HDF5 crashed")


@pytest.mark.slow
def test_mutated_files(tmp_path: Path) -> None:
    """Whatever a file holds, it is read or refused: this process goes on."""
    many, path, ends = int(os.environ.get("SLIDESCAN_MUTATIONS", "200")), tmp_path / "x.h5", []
    sources = []
    for options in ({}, {"chunks": (4, *SHAPE), "compression": "gzip"}, {"libver": "latest"}):
        with h5py.File(path, "w", libver=options.pop("libver", None)) as file:
            glass = np.full((16, *SHAPE), 255, np.uint8)
            file.create_dataset("x", data=glass, **options)
        sources.append(path.read_bytes())
    for seed in range(many):
        content = bytearray(sources[seed % len(sources)])
        rng = np.random.default_rng(seed)
        mutate = (flip_bits, flip_in_the_header, truncate, zero_a_part, drop_a_part)[seed % 5]
        if mutate is flip_bits:  # where the metadata are, not in the pixels
            head = content[:4096]
            flip_bits(head, rng)
            content[:4096] = head
        else:
            mutate(content, rng)
        path.write_bytes(content)
        try:
            with open_dataset(path, "x") as x:
                x.rows(0, x.shape[0])
            ends.append("read")
        except OSError:
            ends.append("not decoded")
        except DataError as error:
            ends.append("crashed" if "crashed" in str(error) else "refused")
    print(f"\n{many} mutated HDF5 files: {Counter(ends)}")
    assert ends.count("read") > 0
    assert ends.count("refused") > 0
