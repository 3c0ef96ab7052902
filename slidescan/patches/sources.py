"""Sources of unlabelled patches: image files, an HDF5 file of PatchCamelyon, an array."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import DataError
from slidescan.patches.decoding import IMAGES, SHAPE, Bad, Patch, read_patch, told
from slidescan.patches.hdf5_files import Dataset, open_dataset
from slidescan.tools.regular_files import read_lines

PREFIX, SUFFIX = "camelyonpatch_level_2_split_", "_x.h5"
"""How the names of PatchCamelyon's files of pixels begin and end."""


class Source(Protocol):
    """Patches with ids."""

    @property
    def ids(self) -> Sequence[str]: ...

    def name(self, row: int) -> str:
        """Where a patch is, for messages."""

    def take(self, rows: Sequence[int]) -> Source:
        """Some of the patches; `rows` rise."""

    def digest(self) -> str:
        """SHA-256 of the ids and of the sizes and times of the files."""

    def opened(self) -> AbstractContextManager[PatchReader]:
        """Open the source for reading."""


class PatchReader(Protocol):
    """Reads the pixels of a source."""

    def __call__(self, rows: range) -> list[Patch | Bad]:
        """RGB (96, 96, 3) of each row, or why there is none. May be called from any thread."""


# --- image files ------------------------------------------------------------------------------


class Files:
    """Image files, one a patch; the id is the file's name without the ending."""

    def __init__(self, paths: Iterable[str], unique: bool = True) -> None:
        """Raises `DataError` where two files have the same id, unless ids need not be `unique`."""
        self.paths = tuple(paths)
        self.ids = tuple(os.path.splitext(os.path.basename(path))[0] for path in self.paths)
        if unique:
            self._check_ids()

    def _check_ids(self) -> None:
        first: dict[str, str] = {}
        for patch_id, path in zip(self.ids, self.paths, strict=True):
            other = first.setdefault(patch_id, path)
            if other is not path:
                raise DataError(
                    f"{path}: has the id {patch_id}, and {other} as well; keep one of the two or "
                    "list the wanted ones with --list"
                )

    def name(self, row: int) -> str:
        return self.paths[row]

    def take(self, rows: Sequence[int]) -> Files:
        return Files(self.paths[row] for row in rows)

    def digest(self) -> str:
        return _digest(f"{i}\0{_stamp(path)}" for i, path in zip(self.ids, self.paths, strict=True))

    def opened(self) -> AbstractContextManager[PatchReader]:
        return nullcontext(lambda rows: [read_patch(self.paths[row]) for row in rows])


class Array:
    """RGB patches in memory, uint8 (N, 96, 96, 3); an id is the row."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        """Raises `ValueError` for another shape or type."""
        if pixels.shape[1:] != SHAPE or pixels.dtype != np.uint8:
            raise ValueError(
                f"patches {pixels.dtype} {pixels.shape}: needs uint8 of shape (N, 96, 96, 3)"
            )
        self.pixels = pixels
        self.ids = tuple(map(str, range(len(pixels))))

    def name(self, row: int) -> str:
        return f"patch {row}"

    def take(self, rows: Sequence[int]) -> Array:
        return Array(self.pixels[np.asarray(rows)])

    def digest(self) -> str:
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()

    def opened(self) -> AbstractContextManager[PatchReader]:
        return nullcontext(lambda rows: list(self.pixels[rows.start : rows.stop]))


def _stamp(path: str | Path) -> str:
    try:
        stat = os.stat(path)
    except OSError:
        return "absent"
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


# --- HDF5 -------------------------------------------------------------------------------------


class HDF5:
    """The dataset x, uint8 (N, 96, 96, 3), of one of PatchCamelyon's files (Veeling et al. 2018).

    An id is the split's name and the row: `test-0000042` in camelyonpatch_level_2_split_test_x.h5.
    """

    def __init__(self, path: Path, rows: Sequence[int] | None = None) -> None:
        """Raises `DataError` where the file is not as described."""
        self.path = path
        with open_dataset(path, "x") as x:
            shape, kind = x.shape, x.dtype
            if shape[1:] != SHAPE or kind != np.uint8:
                raise DataError(f"{path}: x is {kind} {shape}, expected uint8 (N, 96, 96, 3)")
            if not shape[0]:
                raise DataError(f"{path}: holds no patches; name another file")
        self.rows = range(shape[0]) if rows is None else rows
        name = path.name.removeprefix(PREFIX).removesuffix(SUFFIX)
        self.ids = tuple(f"{name}-{row:07d}" for row in self.rows)

    def name(self, row: int) -> str:
        return f"{self.path}, row {self.rows[row]}"

    def take(self, rows: Sequence[int]) -> HDF5:
        return HDF5(self.path, [self.rows[row] for row in rows])

    def digest(self) -> str:
        return _digest((*self.ids, _stamp(self.path)))

    def opened(self) -> AbstractContextManager[PatchReader]:
        return _HDF5Reader(self.path, self.rows)


class _HDF5Reader:
    def __init__(self, path: Path, rows: Sequence[int]) -> None:
        self._opening = open_dataset(path, "x")
        self._rows = rows

    def __enter__(self) -> PatchReader:
        self._x = self._opening.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._opening.__exit__(None, None, None)

    def __call__(self, rows: range) -> list[Patch | Bad]:
        where = [self._rows[row] for row in rows]
        x = self._x
        try:
            # Consecutive rows in one read: h5py is slow at single rows.
            if where[-1] - where[0] == len(where) - 1:
                return list(x.rows(where[0], where[-1] + 1))
            return [x.rows(row, row + 1)[0] for row in where]
        except OSError:
            return [_row(x, row) for row in where]


def _row(x: Dataset, row: int) -> Patch | Bad:
    try:
        patch: Patch = x.rows(row, row + 1)[0]
    except OSError as error:
        return Bad(f"cannot be read: {told(error)}")
    return patch


# --- find the source that a path names --------------------------------------------------------


def find(path: Path) -> Source:
    """Find the patches of a folder of images, a folder with PatchCamelyon's test file, or a file.

    Images are in the order of their names. Raises `DataError` if there is nothing to score.
    """
    if path.is_file():
        if path.suffix.lower() == ".csv":
            raise DataError(
                f"{path}: is a table; name the folder of its patches, and the table with --like"
            )
        if path.suffix.lower() not in (".h5", ".hdf5"):
            raise DataError(
                f"{path}: neither a folder nor an HDF5 file; score single images with --list"
            )
        return HDF5(path)
    try:
        names = sorted(entry.name for entry in os.scandir(path) if not entry.name.startswith("."))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file or folder; correct the path") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    images = [f"{path}/{name}" for name in names if name.lower().endswith(IMAGES)]
    tables = [name for name in names if name.endswith(SUFFIX)]
    if images and not tables:
        return Files(images)
    test = f"{PREFIX}test{SUFFIX}"
    if test in tables and not images:
        return HDF5(path / test)
    raise DataError(f"{path}: {_why_not(images, tables, names)}")


def overlooked(path: Path) -> list[str]:
    """The subfolders of a folder of patches that hold images as well, which `find` leaves out."""
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir())
    return [name for name in folders if not name.startswith(".") and _holds_images(path / name)]


def _holds_images(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(IMAGES) for entry in entries)
    except OSError:
        return False


def _why_not(images: Sequence[str], tables: Sequence[str], names: Sequence[str]) -> str:
    if images:
        return f"holds {len(images)} images and {tables[0]}; move one away, or name the file"
    if tables:
        return f"holds several HDF5 files and none of the test; name one, e.g. {tables[0]}"
    there = f"it holds {', '.join(names[:3])}" if names else "it is empty"
    return f"no images ({', '.join(IMAGES)}) in this folder, {there}; name the one that has them"


def listed(path: Path) -> Files:
    """The images that a text file lists, one path a line; blank lines and # lines are ignored."""
    try:
        lines = read_lines(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file of paths"
        raise DataError(f"{path}: cannot be read: {reason}") from error
    paths = [line for line in lines if line and not line.startswith("#")]
    if not paths:
        raise DataError(f"{path}: names no image; write the path of one on each line")
    return Files(paths)


def select(source: Source, wanted: Sequence[str], where: Path) -> tuple[Source, list[str]]:
    """Select the patches of the ids in `wanted`; returns them and the ids that are not selected.

    `where` is the table that holds the ids, for messages. Raises `DataError` if an id is there
    twice or has no patch.
    """
    chosen = set(wanted)
    if len(chosen) < len(wanted):
        double = next(one for one, after in pairwise(sorted(wanted)) if one == after)
        raise DataError(f"{where}: holds the id {double} twice; remove one of the two rows")
    missing = chosen.difference(source.ids)
    if missing:
        examples = ", ".join(sorted(missing)[:3])
        raise DataError(
            f"{where}: {len(missing)} of its {len(wanted)} ids have no patch, e.g. {examples}; "
            "add the files, or correct --like"
        )
    if not chosen:
        raise DataError(f"{where}: holds no ids; write an id on each line below the header")
    rows = [row for row, patch_id in enumerate(source.ids) if patch_id in chosen]
    extra = [patch_id for patch_id in source.ids if patch_id not in chosen]
    return source.take(rows), extra
