"""The arrays of a map as zarr v3: how they are laid out, read and written.

This is the only module that imports zarr. zarr writes a shard beside its place and renames it, or
puts it as one object. Checksums in the shard, of its index and of every zstd frame, show what a
power failure left behind.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import zarr
import zarr.storage
from numcodecs import Zlib
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer, BufferPrototype

from slidescan.errors import OUT_OF_MEMORY, MapError, lacks_memory
from slidescan.geometry import Box
from slidescan.maps.ngff import halved, multiscales, omero, shapes, touched
from slidescan.maps.shards import shards_of
from slidescan.tools.atomic_files import sync, writing
from slidescan.tools.urls import WEB, Place, Url

BLOCK_CELLS = 256
"""Side of a block: one shard, the unit of resuming."""

CHUNK_CELLS = 128
"""Side of a chunk inside a shard, the smallest part that a viewer reads."""

LEAST_BLOCK_CELLS = 16
"""Smaller blocks are not written; a file that says so is damaged."""

MOST_LEVELS = 32

TISSUE = "labels/tissue"
"""The label image of the cells that are selected for scanning."""

GAPS = "labels/gaps"
"""The label image of the selected cells that cannot be scanned: pixels are missing there."""

COLOURS = {TISSUE: (0, 114, 178, 96), GAPS: (213, 94, 0, 160)}
"""RGBA of the label images."""


Item = TypeVar("Item")
Result = TypeVar("Result")


class DamageError(MapError):
    """A shard exists but does not decode, or an array is missing."""


class Arrays:
    """The arrays of one map. A name is "0" for level 0 of the values, "labels/tissue/0", ..."""

    def __init__(self, path: Place, *, writable: bool) -> None:
        """Open the root. Raises MapError where it cannot be read."""
        self.path = path
        self._shards = shards_of(path)
        self._opened: dict[str, zarr.Array[Any]] = {}
        with self._decoding("its metadata"):
            store, inside = (str(path), "") if isinstance(path, Path) else _remote_store(path)
            mode = "r+" if writable else "r"
            self._group = zarr.open_group(store, path=inside, mode=mode, zarr_format=3)  # type: ignore[arg-type]  # mode is one of the literals

    @contextmanager
    def _decoding(self, what: str) -> Iterator[None]:
        """Turn whatever a decoder or a store raises into a MapError."""
        try:
            yield
        except OSError as error:
            if found := self._shards.trouble(error):
                raise found from error
            reason = error.strerror or str(error)
            raise MapError(f"{self.path}: {what} cannot be read ({reason})") from error
        except Exception as error:  # zarr and each of its decoders raise errors of their own
            if found := self._shards.trouble(error):
                raise found from error
            if lacks_memory(error):  # not damage, or a finished map would be scanned again
                raise MapError(f"{self.path}: {what} cannot be read: {OUT_OF_MEMORY}") from error
            raise DamageError(
                f"{self.path}: {what} is damaged; run the scan again, "
                "with --overwrite if that does not repair it"
            ) from error

    @cached_property
    def level_count(self) -> int:
        """How many levels the map has, by its NGFF metadata."""
        with self._decoding("the NGFF metadata of the map"):
            (image,) = self._attributes("")["ome"]["multiscales"]
            count = len(image["datasets"])
            if not 1 <= count <= MOST_LEVELS:
                raise ValueError(f"{count} levels")
            return count

    def check(self, shape: tuple[int, int], cell_um: float) -> None:
        """Refuse arrays and NGFF metadata that are not those of a map of `shape` cells.

        Raises DamageError.
        """
        levels = halved(shape, self.level_count)
        for level, shape in enumerate(levels):
            self._check_array(str(level), shape, np.float32)
            for label in self.labels:
                self._check_array(f"{label}/{level}", shape, np.uint8)
        for group in ("", *self.labels):
            expected = multiscales("", cell_um, len(levels), "")[0]["datasets"]
            with self._decoding(f"the NGFF metadata of {group or 'the map'}"):
                (found,) = self._attributes(group)["ome"]["multiscales"]
                if found["datasets"] != expected:
                    raise ValueError("levels that do not lie where the map's record has them")

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The label images of the map; maps of earlier versions have no gaps."""
        with self._decoding("the NGFF metadata of labels"):
            listed = self._attributes("labels")["ome"]["labels"]
            return tuple(label for label in COLOURS if label == TISSUE or _name(label) in listed)

    def _attributes(self, group: str) -> Mapping[str, Any]:
        return cast("zarr.Group", self._group[group] if group else self._group).attrs

    def _check_array(self, name: str, shape: tuple[int, int], dtype: type[np.generic]) -> None:
        array = self.open(name)
        side = self.block_cells
        found = array.shape, array.dtype, array.shards
        if found != (shape, np.dtype(dtype), (side, side)) or (
            name == "0" and array.fill_value == 0
        ):
            raise DamageError(
                f"{self.path}: array {name} is {array.dtype} {array.shape} in shards of "
                f"{array.shards}, not {np.dtype(dtype)} {shape} in shards of {(side, side)}; "
                "scan again with --overwrite"
            )

    @cached_property
    def block_cells(self) -> int:
        """Side of a block of this map."""
        shards = self.open("0").shards
        if not shards or min(shards) < LEAST_BLOCK_CELLS:
            raise DamageError(
                f"{self.path}: array 0 has shards of {shards}; scan again with --overwrite"
            )
        return shards[0]

    def open(self, name: str) -> zarr.Array[Any]:
        """Open an array, once. Raises DamageError where it is missing or no array."""
        if name not in self._opened:
            with self._decoding(f"array {name}"):
                array = self._group[name]
                if not isinstance(array, zarr.Array):
                    raise TypeError(f"{name} is a group")
                self._opened[name] = array
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
        with self._decoding(f"{cells} of {array.name}"):
            return np.asarray(array[cells.slices])

    def write(self, name: str, block: Box, values: NDArray[Any]) -> None:
        """Write one block and bring it to the disk. Raises WriteError, or RemoteError."""
        key = self._key(name, block)
        with self._writing():
            # zarr merges into an existing shard and would fail on a damaged one.
            self._shards.clear(key)
            self.open(name)[block.slices] = values
            self._shards.written(key)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with writing(self.path):
            try:
                yield
            except Exception as error:
                if found := self._shards.trouble(error):
                    raise found from error
                raise

    def _key(self, name: str, block: Box) -> str:
        row, column = block.y0 // self.block_cells, block.x0 // self.block_cells
        return f"{name}/c/{row}/{column}"

    def has(self, name: str, block: Box) -> bool:
        """Whether a block was written."""
        return self._shards.has(self._key(name, block))

    def refresh(self) -> None:
        """Look anew for blocks, which other processes may have written."""
        self._shards.refresh()

    def has_shards(self, name: str) -> bool:
        """Whether any block of an array was written."""
        return self._shards.has_any(name)

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Call a function that reads or writes one block for each item; results in order.

        In a store that is far away, several at once.
        """
        return self._shards.each(function, items)

    def update_record(self, changes: Mapping[str, Any]) -> None:
        """Change keys of the map's record and bring it to the disk. Raises WriteError."""
        record = cast("dict[str, Any]", self._group.attrs["slidescan"])
        with self._writing():
            self._group.attrs["slidescan"] = {**record, **changes}
            if isinstance(self.path, Path):
                sync(self.path / "zarr.json", self.path)


def _remote_store(url: Url) -> tuple[Any, str]:
    """zarr's store for a bucket, and where the map is in it."""
    from slidescan.tools.objects.store import bucket_of

    backend = bucket_of(url).backend
    if type(backend).__module__.startswith("obstore"):
        with warnings.catch_warnings():
            # It is called experimental; zarr's version is bounded, and tests read what it writes.
            warnings.simplefilter("ignore")
            return _Patient(backend), url.path
    root = str(Url(url.scheme, url.host)) if url.scheme in WEB else f"/{url.host}"
    return zarr.storage.FsspecStore(_in_loop(backend), path=root.rstrip("/")), url.path


class _Patient(zarr.storage.ObjectStore[Any]):
    """Asks again where an answer is interrupted; obstore itself repeats other failures."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        return await _repeated(partial(super().get, key, prototype, byte_range))

    async def set(self, key: str, value: Buffer) -> None:
        await _repeated(partial(super().set, key, value))


async def _repeated(call: Callable[[], Awaitable[Result]]) -> Result:
    from slidescan.tools.objects.attempts import interrupted, pauses_s

    for pause_s in pauses_s():
        try:
            return await call()
        except Exception as error:
            if not interrupted(error):
                raise
        await asyncio.sleep(pause_s)
    return await call()


def _in_loop(files: Any) -> Any:
    """A file system of fsspec that zarr can wait for."""
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    if not files.async_impl:
        return AsyncFileSystemWrapper(files, asynchronous=True)
    return type(files)(**{**files.storage_options, "asynchronous": True})


def laid(name: str, record: dict[str, Any], mask: NDArray[np.bool_]) -> dict[str, bytes]:
    """The objects of a whole map except its values, by their keys."""
    objects: dict[str, Any] = {}
    _lay(zarr.storage.MemoryStore(objects), name, record, mask)
    return {key: each.to_bytes() for key, each in objects.items()}


def lay(folder: Path, name: str, record: dict[str, Any], mask: NDArray[np.bool_]) -> None:
    """Write a whole map except its values into `folder`, which must not exist yet."""
    _lay(str(folder), name, record, mask)
    sync(folder, *folder.rglob("*"))


def _lay(store: Any, name: str, record: dict[str, Any], mask: NDArray[np.bool_]) -> None:
    levels, cell_um = shapes(mask.shape), record["grid"]["stride"] * record["mpp"]
    ome = {
        "version": "0.5",
        "multiscales": multiscales(name, cell_um, len(levels), "mean"),
        "omero": omero(name),
    }
    attributes = {"ome": ome, "slidescan": record}
    group = zarr.create_group(store, zarr_format=3, attributes=attributes)
    index = {"version": "0.5", "labels": [_name(label) for label in COLOURS]}
    group.create_group("labels", attributes={"ome": index})
    for label in COLOURS:
        group.create_group(label, attributes={"ome": _label(label, cell_um, len(levels))})
    selected = mask
    for level, shape in enumerate(levels):
        _create(group, str(level), shape, np.float32, float("nan"))
        _create(group, f"{GAPS}/{level}", shape, np.uint8, 0)
        if level:
            selected = touched(selected)
        cells = _create(group, f"{TISSUE}/{level}", shape, np.uint8, 0)
        for y in range(0, shape[0], BLOCK_CELLS):
            rows = slice(y, y + BLOCK_CELLS)
            if selected[rows].any():
                cells[rows] = selected[rows].astype(np.uint8)


def _label(label: str, cell_um: float, levels: int) -> dict[str, Any]:
    """NGFF metadata of a label image, which has as many levels as its image.

    A coarse cell of a label is 1 if any of its four cells is. For tissue without gaps, that is
    where the mean of the probabilities is a number.
    """
    return {
        "version": "0.5",
        "multiscales": multiscales(_name(label), cell_um, levels, "max"),
        "image-label": {
            "colors": [{"label-value": 1, "rgba": list(COLOURS[label])}],
            "source": {"image": "../../"},
        },
    }


def _name(label: str) -> str:
    return label.rpartition("/")[2]


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


class Version2:
    """A hierarchy of zarr format 2, for programs that read nothing newer; written from scratch."""

    def __init__(self, folder: Path, attributes: Mapping[str, Any]) -> None:
        """Make the root group in `folder`, which must not exist yet."""
        self._root = zarr.create_group(str(folder), zarr_format=2, attributes=dict(attributes))

    def group(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Make a group; those above it must be there."""
        self._root.create_group(name, attributes=dict(attributes))

    def array(
        self, name: str, shape: tuple[int, int], dtype: type[np.generic], fill: float
    ) -> zarr.Array[Any]:
        """Make an array of the fill value, in zlib: Java's readers have no zstd."""
        return self._root.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=(BLOCK_CELLS, BLOCK_CELLS),
            compressors=Zlib(level=6),
            chunk_key_encoding={"name": "v2", "separator": "/"},
            fill_value=fill,
        )
