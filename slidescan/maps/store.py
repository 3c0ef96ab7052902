"""The map on disk: an OME-NGFF 0.5 image in a zarr v3 folder, written one shard at a time.

    map.zarr/           attributes `ome` (multiscales, axes y and x) and `slidescan` (the record)
      0, 1, ...         float32 probabilities (cells_y, cells_x), each level half the one before
      labels/tissue/    the mask on the same levels, uint8, 1 = selected for scanning
      labels/gaps/      likewise, 1 = selected, but the slide lacks pixels of its field of view

Micrometre 0 is the upper-left corner of the scan plane, which is that of the slide's level-0 pixel
(0, 0). NGFF coordinates are those of sample centres, so the translation of a level is half its
scale. Level 0 lies on a slide whose own pixels are placed by their centres as well.

Which blocks are done is read from the data and recorded nowhere: a block is done when its shard
decodes and its finite cells are those of the mask without the gaps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import MapError, RemoteError
from slidescan.geometry import Box, Grid
from slidescan.maps.coverage import Coverage
from slidescan.maps.creation import Lent
from slidescan.maps.layout import Arrays, DamageError
from slidescan.maps.ngff import halve, halved
from slidescan.maps.places import keeping, resolved
from slidescan.maps.record import Blank, find_record, read_record
from slidescan.maps.replacement import successor
from slidescan.tools.atomic_files import writing
from slidescan.tools.settings_diff import JSON, differences, strict
from slidescan.tools.urls import AnyPlace, Place

if TYPE_CHECKING:
    from slidescan.maps.places import Held


class Heatmap:
    """A map, open for reading or, under a lock beside it, for writing by one process.

    `create`, `open` and `resume_or_create` make one; `with` or `close` gives the lock back.
    Methods may be called from any thread, `write` for different blocks at once. Boxes are cells of
    the level they are used with.
    """

    def __init__(self, path: Place, lock: Held | None = None, *, replaces: bool = False) -> None:
        """Read the record and the mask; callers use `open`.

        A map that `replaces` the finished one at `path` is beside it until `finish`.
        """
        self._keeping = keeping(path)
        folder = self._keeping.successor if replaces else path
        record = read_record(folder)
        self.path = path
        self.replaces = replaces
        self.grid = Grid(**dict(record.grid))
        self.mpp = record.mpp
        self.settings: dict[str, Any] = record.settings
        self.provenance: dict[str, Any] = record.provenance
        self.complete = record.complete
        self._lock = lock
        self._arrays = Arrays(folder, writable=lock is not None)
        # Before the mask is read: a damaged record may claim any number of cells.
        self._arrays.check(self.grid.shape, self.mpp * self.grid.stride)
        self._coverage = Coverage(self._arrays, self.grid.cells, record.selected)

    @classmethod
    def create(cls, path: AnyPlace, *, overwrite: bool = False, **blank: Unpack[Blank]) -> Self:
        """Write an empty map to `path`, all or nothing, and open it for writing.

        `overwrite` replaces a slidescan map. Anything else at `path`, except an empty folder, is
        refused and left alone.

        Raises:
            MapError: the path is taken.
            WriteError: it cannot be written, or another process writes there.
        """
        place = resolved(path)
        with (kept := keeping(place)).locked() as held:
            kept.create(blank, overwrite)
            return cls(place, held)

    @classmethod
    def open(cls, path: AnyPlace, *, writable: bool = False) -> Self:
        """Open an existing map; `writable` takes the lock and removes a killed writer's leftovers.

        Raises:
            MapError: there is no readable slidescan map.
            WriteError: another process writes it.
        """
        place = resolved(path)
        if not writable:
            return cls(place)
        with keeping(place).locked() as held:
            return cls(place, held)

    @classmethod
    def join(cls, path: Path, started: str, *, replaces: bool = False) -> Self:
        """Open a map for writing blocks while another process holds its lock.

        No two processes may write one block. `started` is that of the map's provenance, and
        `replaces` that of the map as `resume_or_create` returned it. Raises MapError where there is
        no such map any more.
        """
        path = path.resolve()
        lent = Lent(successor(path) if replaces else path, started)
        lent.check()
        return cls(path, lent, replaces=replaces)

    @classmethod
    def resume_or_create(
        cls,
        path: AnyPlace,
        *,
        overwrite: bool = False,
        lent: bool = False,
        **blank: Unpack[Blank],
    ) -> Self:
        """Create a map, or resume the one at `path` if grid, mpp, mask and settings are equal.

        `complete` is true where nothing is left to do; a complete map with a damaged block becomes
        incomplete. `overwrite` replaces a map that is complete or was made with other settings; an
        incomplete one with equal settings is resumed. A complete map stays in its place until
        `finish`, and what was scanned of the new one is resumed by the next call with `overwrite`.
        `lent`: the lock is held by another process, for which this one works.

        Raises:
            MapError: the path is taken, or the map there was made with other settings.
            WriteError: as for `create`.
        """
        place = resolved(path)
        kept = keeping(place)
        with nullcontext(Lent()) if lent else kept.locked() as held:
            if find_record(place) is None:
                kept.create(blank, overwrite)
                return cls(place, held)
            found: Self | None = None
            try:
                found = cls(place, held)
                changes = found._changes(blank)
            except RemoteError:
                raise
            except MapError:
                if not overwrite:
                    raise
                changes = ["unreadable"]
            if overwrite and found is not None and found.complete:
                return cls._beside(place, held, blank)
            if overwrite and changes:
                kept.create(blank, overwrite)
                return cls(place, held)
            assert found is not None
            if changes:
                raise MapError(
                    f"{place}: made with other settings ({'; '.join(changes)}); "
                    "pass --overwrite or choose another --out"
                )
            if found.complete and not found.whole():
                found._mark(complete=False)
            return found

    @classmethod
    def _beside(cls, path: Place, held: Held, blank: Blank) -> Self:
        """Begin or resume the map that replaces the finished one at `path`."""
        kept = keeping(path)
        with writing(path):
            if find_record(kept.successor) is not None:
                try:
                    found = cls(path, held, replaces=True)
                    if not found._changes(blank):
                        return found
                except RemoteError:
                    raise
                except MapError:
                    pass  # it is damaged, and nothing in it was ever finished
                kept.drop()
            keeping(kept.successor).create(blank, overwrite=False, name=path.stem)
        return cls(path, held, replaces=True)

    def __enter__(self) -> Self:
        """Return the map itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Give the lock back; the map can still be read but not written."""
        if self._lock is not None:
            self._keeping.release(self._lock)
            self._lock = None

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Cells (rows, columns) of each level, finest first."""
        return halved(self.grid.shape, self._arrays.level_count)

    def blocks(self) -> Iterator[Box]:
        """Every block of level 0, row by row."""
        return self.grid.cells.split(self._arrays.block_cells)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(rows, columns), true where a cell is selected for scanning."""
        return self._coverage.mask

    @property
    def gaps(self) -> NDArray[np.bool_] | None:
        """The selected cells that the slide lacks pixels of; None where there are none."""
        return self._coverage.gaps

    @property
    def scanned(self) -> NDArray[np.bool_]:
        """The cells that have a value once the map is complete: the mask without the gaps."""
        return self._coverage.level(0)

    def missing(self) -> Iterator[Box]:
        """The blocks that are not done."""
        self._arrays.refresh()
        blocks = list(self.blocks())
        done = self._arrays.each(self.done, blocks)
        return (block for block, whole in zip(blocks, done, strict=True) if not whole)

    def done(self, block: Box) -> bool:
        """Whether the block's data is whole; a block without selected cells needs none."""
        expected = self._coverage.block(block)
        if not self._arrays.has("0", block):
            return not expected.any()
        try:
            finite = np.isfinite(self._read(block, 0))
        except DamageError:
            return False
        return np.array_equal(finite, expected)

    def whole(self) -> bool:
        """Whether a complete map has all of its blocks; those of coarser levels are not decoded."""
        return not any(True for _ in self.missing()) and all(
            self._arrays.has(str(level), block) for level, block in self._coarser_blocks()
        )

    def read(self, cells: Box, level: int = 0) -> NDArray[np.float32]:
        """Probabilities of `cells`, NaN where nothing was scanned (yet).

        Raises:
            MapError: the file cannot be read, or its shard is damaged or, in a complete map,
                missing (`DamageError`).
        """
        values = self._read(cells, level)
        if self.complete:
            expected = self._coverage.level(level)[cells.slices]
            if not np.array_equal(np.isfinite(values), expected):
                raise DamageError(
                    f"{self.path}: {cells} of level {level} has lost values; run the scan again, "
                    "with --overwrite if that does not repair it"
                )
        return values

    def write(
        self, block: Box, values: NDArray[np.float32], gaps: NDArray[np.bool_] | None = None
    ) -> None:
        """Store one block and return once it is on the disk.

        `gaps` marks the selected cells that the slide lacks pixels of.

        Raises:
            ValueError: not a block, or values that are not NaN where nothing is to be scanned.
            MapError: cells to be scanned that are not finite.
            WriteError: the disk does not take them.
        """
        if block not in self.blocks():
            raise ValueError(f"{block} is not a block of {self.grid.shape} cells")
        if values.shape != block.shape or values.dtype != np.float32:
            raise ValueError(f"values {values.dtype} {values.shape} for a block of {block.shape}")
        self._require_lock()
        self._coverage.put_gaps(block, gaps)  # first: a block with gaps alone has no shard
        mask = self._coverage.block(block)
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
        """Fill the coarser levels, add `provenance`, and then mark the map as complete.

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
        self._coverage.finish_gaps(self.shapes)
        coarser = list(self._coarser_blocks())
        for level in range(1, len(self.shapes)):
            blocks = [block for at, block in coarser if at == level]
            for _ in self._arrays.each(partial(self._fill_coarser, level), blocks):
                pass
        self.provenance = {**self.provenance, **strict(provenance)}
        self._mark(complete=True)
        if self.replaces:
            self._keeping.swap()
            self.replaces = False
            self._arrays = Arrays(self.path, writable=True)

    def change_fingerprint(self, fingerprint: str) -> None:
        """Record another file of the same slide. Raises WriteError."""
        self._require_lock()
        self.settings["slide"]["fingerprint"] = fingerprint
        self._arrays.update_record({"settings": self.settings})

    def _changes(self, blank: Blank) -> list[str]:
        """What differs from `blank`, as lines for the user."""
        there = {**self.settings, "grid": asdict(self.grid), "mpp": self.mpp}
        here = {**blank["settings"], "grid": asdict(blank["grid"]), "mpp": float(blank["mpp"])}
        changes = differences(there, here)
        if not changes and not np.array_equal(self.mask, blank["mask"]):
            cells = np.count_nonzero(self.mask != blank["mask"])
            changes.append(f"tissue mask: {cells} cells differ")
        return changes

    def _coarser_blocks(self) -> Iterator[tuple[int, Box]]:
        """(level, block) of the blocks above level 0 that have values in a complete map."""
        for level, shape in enumerate(self.shapes[1:], start=1):
            expected = self._coverage.level(level)
            for block in Box(0, 0, *shape).split(self._arrays.block_cells):
                if expected[block.slices].any():
                    yield level, block

    def _fill_coarser(self, level: int, block: Box) -> None:
        finer = Box(0, 0, *self.shapes[level - 1])
        under = Box(2 * block.y0, 2 * block.x0, 2 * block.y1, 2 * block.x1).clip(finer)
        self._put(level, block, halve(self._read(under, level - 1)))

    def _read(self, cells: Box, level: int) -> NDArray[np.float32]:
        """Cells as they are on the disk, whether or not values are missing."""
        return cast("NDArray[np.float32]", self._arrays.read(str(level), cells))

    def _put(self, level: int, block: Box, values: NDArray[np.float32]) -> None:
        self._require_lock()
        self._arrays.write(str(level), block, values)

    def _require_lock(self) -> None:
        if self._lock is None:
            raise ValueError(f"{self.path}: not open for writing")
        self._keeping.check(self._lock)

    def _mark(self, *, complete: bool) -> None:
        self._require_lock()
        self._arrays.update_record({"complete": complete, "provenance": self.provenance})
        self.complete = complete
