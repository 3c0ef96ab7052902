"""The arrays of a map as zarr v3: how they are laid out, read and written.

This is the only module that imports zarr. zarr writes a shard beside its place and renames it.
Checksums in the shard, of its index and of every zstd frame, show what a power failure left behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from slidescan.errors import MapError
from slidescan.geometry import Box
from slidescan.maps.ngff import multiscales, shapes, touched
from slidescan.tools.atomic_files import sync, writing

BLOCK_CELLS = 256
"""Side of a block: one shard, the unit of resuming."""

CHUNK_CELLS = 128
"""Side of a chunk inside a shard, the smallest part that a viewer reads."""

TISSUE = "labels/tissue"
"""The group of the mask."""


class DamageError(MapError):
    """A shard exists but does not decode, or an array is missing."""


class Arrays:
    """The arrays of one map. A name is "0" for level 0 of the values, "labels/tissue/0", ..."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.path = path
        self._group = zarr.open_group(str(path), mode="r+" if writable else "r", zarr_format=3)
        self._opened: dict[str, zarr.Array[Any]] = {}

    def open(self, name: str) -> zarr.Array[Any]:
        """Open an array, once. Raises DamageError where it is missing."""
        if name not in self._opened:
            try:
                self._opened[name] = cast("zarr.Array[Any]", self._group[name])
            except (KeyError, ValueError) as error:
                raise DamageError(
                    f"{self.path}: array {name} is missing; scan again with --overwrite"
                ) from error
        return self._opened[name]

    def read(self, name: str, cells: Box) -> NDArray[Any]:
        """Read a box of cells.

        Raises:
            ValueError: the box is not inside the array.
            MapError: the file cannot be read, or its shard is damaged (`DamageError`).
        """
        array = self.open(name)
        if cells != cells.clip(Box(0, 0, *array.shape)):
            raise ValueError(f"{cells} is not inside {array.shape} cells")
        try:
            return np.asarray(array[cells.slices])
        except OSError as error:
            raise MapError(f"{self.path}: cannot be read ({error.strerror})") from error
        except Exception as error:  # every decoder has errors of its own
            raise DamageError(
                f"{self.path}: {cells} of {array.name} is damaged; run the scan again, "
                "with --overwrite if that does not repair it"
            ) from error

    def write(self, name: str, block: Box, values: NDArray[Any]) -> None:
        """Write one block and bring it to the disk. Raises WriteError."""
        shard = self.shard(name, block)
        with writing(self.path):
            # zarr merges into an existing shard and would fail on a damaged one.
            shard.unlink(missing_ok=True)
            self.open(name)[block.slices] = values
            if shard.exists():  # zarr writes none where all cells have the fill value
                sync(shard, shard.parent, shard.parent.parent)

    def shard(self, name: str, block: Box) -> Path:
        """Return the path of a block's file."""
        row, column = block.y0 // BLOCK_CELLS, block.x0 // BLOCK_CELLS
        return self.path / name / "c" / str(row) / str(column)

    def update_record(self, changes: Mapping[str, Any]) -> None:
        """Change keys of the map's record and bring it to the disk. Raises WriteError."""
        record = cast("dict[str, Any]", self._group.attrs["slidescan"])
        with writing(self.path):
            self._group.attrs["slidescan"] = {**record, **changes}
            sync(self.path / "zarr.json", self.path)


def lay(folder: Path, name: str, record: dict[str, Any], mask: NDArray[np.bool_]) -> None:
    """Write a whole map except its values into `folder`, which must not exist yet."""
    levels, cell_um = shapes(mask.shape), record["grid"]["stride"] * record["mpp"]
    ome = {"version": "0.5", "multiscales": multiscales(name, cell_um, len(levels), "mean")}
    attributes = {"ome": ome, "slidescan": record}
    group = zarr.create_group(str(folder), zarr_format=3, attributes=attributes)
    index = {"version": "0.5", "labels": ["tissue"]}
    group.create_group("labels", attributes={"ome": index})
    # NGFF 0.5: a label image has as many levels as its image. A coarse cell is tissue if any of
    # its four cells is, which is where its mean is a number.
    label = {
        "version": "0.5",
        "multiscales": multiscales("tissue", cell_um, len(levels), "max"),
        "image-label": {
            "colors": [{"label-value": 1, "rgba": [0, 114, 178, 96]}],
            "source": {"image": "../../"},
        },
    }
    tissue = group.create_group(TISSUE, attributes={"ome": label})
    selected = mask
    for level, shape in enumerate(levels):
        _create(group, str(level), shape, np.float32, float("nan"))
        if level:
            selected = touched(selected)
        cells = _create(tissue, str(level), shape, np.uint8, 0)
        for y in range(0, shape[0], BLOCK_CELLS):
            rows = slice(y, y + BLOCK_CELLS)
            if selected[rows].any():
                cells[rows] = selected[rows].astype(np.uint8)
    sync(folder, *folder.rglob("*"))


def _create(
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
