"""The map on disk: an OME-NGFF 0.5 image in a zarr v3 folder, written one shard at a time.

    map.zarr/           attributes `ome` (multiscales, axes y and x) and `slidescan` (the record)
      0, 1, ...         float32 probabilities (cells_y, cells_x), each level half the one before
      labels/tissue/    the mask on the same levels, uint8, 1 = selected for scanning

Micrometre 0 is the upper-left corner of the scan plane, that is of the slide's level-0 pixel
(0, 0). NGFF coordinates speak of sample centres, so the translation of a level is half its scale,
and level 0 lies on a slide whose own pixels are placed by their centres likewise.

What is done is read off the data and recorded nowhere: a block is done when its shard decodes and
its finite cells are the mask's. zarr writes a shard beside its place and renames it; checksums in
the shard (its index and every zstd frame) tell what a power failure left behind.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, TypedDict, Unpack, cast

import numpy as np
import zarr
from filelock import FileLock
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from slidescan.errors import MapError
from slidescan.geometry import Box, Grid
from slidescan.maps.ngff import halve, multiscales, shapes, touched
from slidescan.tools.atomic_files import check_folder, lock, release, sync, writing
from slidescan.tools.settings_diff import JSON, differences, strict

BLOCK_CELLS = 256
"""Side of a block: one shard, the unit of resuming."""

CHUNK_CELLS = 128
"""Side of a chunk inside a shard, the least that a viewer reads."""

FORMAT = 1
"""Version of the layout; a change that old code would misread raises it."""

TEMPORARY = ".slidescan-tmp"


class DamageError(MapError):
    """A shard is there and does not decode."""


class Blank(TypedDict):
    """A map before its first cell is scanned."""

    grid: Grid
    mpp: float
    mask: NDArray[np.bool_]
    """(cells_y, cells_x), true where a cell is to be scanned"""
    settings: Mapping[str, JSON]
    """all that determines the values, the slide and the model's weights included"""
    provenance: Mapping[str, JSON]
    """what else is worth knowing; never compared"""


class Heatmap:
    """A map, open for reading or, under a lock beside it, for writing by one process.

    `create`, `open` and `resume_or_create` make one; `with` or `close` gives the lock back.
    Methods may be called from any thread, `write` for different blocks at once. Boxes are cells of
    the level they are used with.
    """

    def __init__(self, path: Path, lock: FileLock | None = None) -> None:
        """Read the record and the mask; callers want `open`."""
        record = _record(path)
        if record is None:
            raise MapError(f"{path}: not a slidescan map; check the path")
        if record["format"] != FORMAT:
            raise MapError(f"{path}: map format {record['format']}, not {FORMAT}; update slidescan")
        self.path = path
        self.grid = Grid(**{**record["grid"], "extent_px": tuple(record["grid"]["extent_px"])})
        self.mpp = float(record["mpp"])
        self.settings: dict[str, Any] = record["settings"]
        self.provenance: dict[str, Any] = record["provenance"]
        self.complete = bool(record["complete"])
        self._lock = lock
        self._group = zarr.open_group(str(path), mode="r+" if lock else "r", zarr_format=3)
        self._levels = [self._array(str(level)) for level in range(len(self.shapes))]
        self.mask: NDArray[np.bool_] = (
            self._cells(self._array("labels/tissue/0"), self.grid.cells) == 1
        )
        self.mask.setflags(write=False)

    @classmethod
    def create(cls, path: str | Path, *, overwrite: bool = False, **blank: Unpack[Blank]) -> Self:
        """Lay an empty map at `path`, all or nothing, and open it for writing.

        `overwrite` replaces a slidescan map; anything else at `path`, bar an empty folder, is
        refused and left alone.

        Raises:
            MapError: the path is taken.
            WriteError: it cannot be written, or another process writes there.
        """
        with _locked(path := Path(path).resolve()) as held:
            _create(path, blank, overwrite)
            return cls(path, held)

    @classmethod
    def open(cls, path: str | Path, *, writable: bool = False) -> Self:
        """Open an existing map; `writable` takes the lock and clears a killed writer's leftovers.

        Raises:
            MapError: there is no readable slidescan map.
            WriteError: another process writes it.
        """
        path = Path(path).resolve()
        if not writable:
            return cls(path)
        with _locked(path) as held:
            return cls(path, held)

    @classmethod
    def resume_or_create(
        cls, path: str | Path, *, overwrite: bool = False, **blank: Unpack[Blank]
    ) -> Self:
        """`create`, or continue the map at `path` if grid, mpp, mask and settings are equal.

        `complete` tells whether anything is left to do; a complete map with a damaged block has.
        `overwrite` replaces a map that is complete or was made with other settings: one that it
        began itself is continued.

        Raises:
            MapError: the path is taken, or the map there was made with other settings.
            WriteError: as for `create`.
        """
        with _locked(path := Path(path).resolve()) as held:
            if _record(path) is None:
                _create(path, blank, overwrite)
                return cls(path, held)
            try:
                found = cls(path, held)
                changes = found._changes(blank)
            except MapError:
                if not overwrite:
                    raise
                changes = ["unreadable"]
            if overwrite and (changes or found.complete):
                _create(path, blank, overwrite)
                return cls(path, held)
            if changes:
                raise MapError(
                    f"{path}: made with other settings ({'; '.join(changes)}); "
                    "pass --overwrite or choose another --out"
                )
            if found.complete and any(True for _ in found.missing()):
                found._mark(complete=False)
            return found

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Give the lock back; reading goes on, writing does not."""
        if self._lock is not None:
            release(self._lock)
            self._lock = None

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Cells (rows, columns) of each level, finest first."""
        return shapes(self.grid.shape)

    def blocks(self) -> Iterator[Box]:
        """Every block of level 0, row by row."""
        return self.grid.cells.split(BLOCK_CELLS)

    def missing(self) -> Iterator[Box]:
        """The blocks that are not done."""
        return (block for block in self.blocks() if not self.done(block))

    def done(self, block: Box) -> bool:
        """Whether the block's data is whole; a block without selected cells needs none."""
        if not self._shard(0, block).exists():
            return not self.mask[block.slices].any()
        try:
            finite = np.isfinite(self.read(block))
        except DamageError:
            return False
        return np.array_equal(finite, self.mask[block.slices])

    def read(self, cells: Box, level: int = 0) -> NDArray[np.float32]:
        """Probabilities of `cells`, NaN where nothing was scanned (yet).

        Raises:
            MapError: the file cannot be read, or its shard is damaged (`DamageError`).
        """
        return cast("NDArray[np.float32]", self._cells(self._levels[level], cells))

    def write(self, block: Box, values: NDArray[np.float32]) -> None:
        """Store one block and return once it is on the disk.

        Raises:
            ValueError: not a block, or values that are not NaN exactly where the mask is off.
            MapError: selected cells that are not finite.
            WriteError: the disk does not take them.
        """
        if block not in self.blocks():
            raise ValueError(f"{block} is not a block of {self.grid.shape} cells")
        if values.shape != block.shape or values.dtype != np.float32:
            raise ValueError(f"values {values.dtype} {values.shape} for a block of {block.shape}")
        mask = self.mask[block.slices]
        if not np.isnan(values[~mask]).all():
            raise ValueError(f"{block}: values outside the mask")
        bad = np.count_nonzero(~np.isfinite(values[mask]))
        if bad:
            raise MapError(
                f"{self.path}: the network gave {bad} values that are not finite in {block}; "
                "scan in float32 or check the weights"
            )
        self._put(0, block, np.where(mask, values, np.float32(np.nan)))

    def finish(self, provenance: Mapping[str, JSON]) -> None:
        """Fill the coarser levels, add `provenance`, and only then call the map complete.

        May be killed and repeated; does nothing to a complete map.

        Raises:
            MapError: blocks are missing.
            WriteError: the disk does not take the levels.
        """
        if self.complete:
            return
        missing = sum(1 for _ in self.missing())
        if missing:
            raise MapError(f"{self.path}: {missing} blocks are missing; run the same command again")
        selected: NDArray[np.bool_] = self.mask
        for level, shape in enumerate(self.shapes[1:], start=1):
            finer = Box(0, 0, *self.shapes[level - 1])
            selected = touched(selected)
            for block in Box(0, 0, *shape).split(BLOCK_CELLS):
                if selected[block.slices].any():
                    under = Box(2 * block.y0, 2 * block.x0, 2 * block.y1, 2 * block.x1).clip(finer)
                    self._put(level, block, halve(self.read(under, level - 1)))
        self.provenance = {**self.provenance, **strict(provenance)}
        self._mark(complete=True)

    def _changes(self, blank: Blank) -> list[str]:
        """What differs from `blank`, for the user to read."""
        there = {**self.settings, "grid": asdict(self.grid), "mpp": self.mpp}
        here = {**blank["settings"], "grid": asdict(blank["grid"]), "mpp": float(blank["mpp"])}
        changes = differences(there, here)
        if not changes and not np.array_equal(self.mask, blank["mask"]):
            cells = np.count_nonzero(self.mask != blank["mask"])
            changes.append(f"tissue mask: {cells} cells differ")
        return changes

    def _array(self, name: str) -> zarr.Array[Any]:
        try:
            return cast("zarr.Array[Any]", self._group[name])
        except (KeyError, ValueError) as error:
            raise DamageError(f"{self.path}: array {name} is gone; pass --overwrite") from error

    def _cells(self, array: zarr.Array[Any], cells: Box) -> NDArray[Any]:
        if cells != cells.clip(Box(0, 0, *array.shape)):
            raise ValueError(f"{cells} is not inside {array.shape} cells")
        try:
            return np.asarray(array[cells.slices])
        except OSError as error:
            raise MapError(f"{self.path}: cannot be read ({error.strerror})") from error
        except Exception as error:  # whichever decoder stumbles, the shard is damaged
            raise DamageError(
                f"{self.path}: {cells} of {array.name} is damaged; run the scan again, "
                "with --overwrite if that does not mend it"
            ) from error

    def _put(self, level: int, block: Box, values: NDArray[np.float32]) -> None:
        if self._lock is None:
            raise ValueError(f"{self.path}: not open for writing")
        shard = self._shard(level, block)
        with writing(self.path):
            # zarr merges into the shard that is there, and would trip over a damaged one.
            shard.unlink(missing_ok=True)
            self._levels[level][block.slices] = values
            if shard.exists():  # zarr writes none for cells that are all NaN
                sync(shard, shard.parent, shard.parent.parent)

    def _shard(self, level: int, block: Box) -> Path:
        """The file of a block."""
        row, column = block.y0 // BLOCK_CELLS, block.x0 // BLOCK_CELLS
        return self.path / str(level) / "c" / str(row) / str(column)

    def _mark(self, *, complete: bool) -> None:
        record = {**cast("dict[str, Any]", self._group.attrs["slidescan"]), "complete": complete}
        with writing(self.path):
            self._group.attrs["slidescan"] = {**record, "provenance": self.provenance}
            sync(self.path / "zarr.json", self.path)
        self.complete = complete


def _lay(folder: Path, name: str, record: dict[str, Any], mask: NDArray[np.bool_]) -> None:
    """The whole map bar its values, in a folder that does not exist yet."""
    levels, cell_um = shapes(mask.shape), record["grid"]["stride"] * record["mpp"]
    ome = {"version": "0.5", "multiscales": multiscales(name, cell_um, len(levels), "mean")}
    attributes = {"ome": ome, "slidescan": record}
    group = zarr.create_group(str(folder), zarr_format=3, attributes=attributes)
    index = {"version": "0.5", "labels": ["tissue"]}
    group.create_group("labels", attributes={"ome": index})
    # NGFF 0.5: a label image has as many levels as its image. A coarse cell is tissue if any of
    # its four is, which is where its mean is a number.
    label = {
        "version": "0.5",
        "multiscales": multiscales("tissue", cell_um, len(levels), "max"),
        "image-label": {
            "colors": [{"label-value": 1, "rgba": [0, 114, 178, 96]}],
            "source": {"image": "../../"},
        },
    }
    tissue = group.create_group("labels/tissue", attributes={"ome": label})
    selected = mask
    for level, shape in enumerate(levels):
        _array(group, str(level), shape, np.float32, float("nan"))
        if level:
            selected = touched(selected)
        cells = _array(tissue, str(level), shape, np.uint8, 0)
        for y in range(0, shape[0], BLOCK_CELLS):
            rows = slice(y, y + BLOCK_CELLS)
            if selected[rows].any():
                cells[rows] = selected[rows].astype(np.uint8)
    sync(folder, *folder.rglob("*"))


def _array(
    group: zarr.Group, name: str, shape: tuple[int, int], dtype: Any, fill: float
) -> zarr.Array[Any]:
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        shards=(BLOCK_CELLS, BLOCK_CELLS),
        chunks=(CHUNK_CELLS, CHUNK_CELLS),
        compressors=ZstdCodec(level=3, checksum=True),
        chunk_key_encoding={"name": "default", "separator": "/"},
        dimension_names=("y", "x"),
        fill_value=fill,
    )


def _create(path: Path, blank: Blank, overwrite: bool) -> None:
    """Lay the map out of sight and rename it into place; the one it replaces goes last."""
    grid, mask = blank["grid"], blank["mask"]
    if mask.shape != grid.shape or 0 in mask.shape or mask.dtype != np.bool_:
        raise ValueError(f"mask {mask.dtype} {mask.shape} is not a bool of {grid.shape}")
    kept = {key: blank[key] for key in ("mpp", "settings", "provenance")}
    record = strict({"format": FORMAT, "grid": asdict(grid), **kept, "complete": False})
    check_target(path)
    taken = _record(path) is not None
    if taken and not overwrite:
        raise MapError(f"{path}: exists; pass --overwrite or choose another --out")
    names = {"prefix": f".{path.name}-", "suffix": TEMPORARY}
    with (
        writing(path),
        TemporaryDirectory(**names, dir=path.parent, ignore_cleanup_errors=True) as hidden,
    ):
        # The hidden folder has mode 0700; the map is a subfolder, with what the umask gives.
        new, old = Path(hidden, "new"), Path(hidden, "old")
        _lay(new, path.stem, record, mask)
        try:
            if taken:
                path.rename(old)
            elif path.exists():
                path.rmdir()  # empty, and Windows renames onto nothing
            new.rename(path)
        except BaseException:
            if old.exists() and not path.exists():
                old.rename(path)
            raise
        sync(path.parent)


def check_target(path: Path) -> None:
    """Refuse a path where no map can be: in no folder, or on what is not ours.

    Raises:
        SlidescanError: there is no such folder, or something else is at `path`.
    """
    check_folder(path)
    if _record(path) is None and os.path.lexists(path):
        with writing(path):
            if not path.is_dir() or any(path.iterdir()):
                raise MapError(f"{path}: not a slidescan map, so left alone; choose another --out")


def _record(path: Path) -> dict[str, Any] | None:
    """The `slidescan` attribute, None where there is no slidescan map."""
    try:
        record = json.loads((path / "zarr.json").read_text())["attributes"]["slidescan"]
    except PermissionError as error:
        raise MapError(f"{path}: cannot be read ({error.strerror})") from error
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return record if isinstance(record, dict) and "format" in record else None


@contextmanager
def _locked(path: Path) -> Iterator[FileLock]:
    """Lock the map, clear what a killed writer left, and keep the lock unless the body fails."""
    held = lock(path)
    try:
        with writing(path):
            # Just the eight letters of tempfile: "a-*" would match the folders of a map "a-b" too.
            for folder in path.parent.glob(f".{glob.escape(path.name)}-{'?' * 8}{TEMPORARY}"):
                shutil.rmtree(folder, ignore_errors=True)
            # zarr's name for a shard not yet renamed; never looked for in a stranger's folder.
            for partial in path.rglob("*.partial") if _record(path) else ():
                partial.unlink(missing_ok=True)
        yield held
    except BaseException:
        release(held)
        raise
