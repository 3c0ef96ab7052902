"""A map as the page sees it, finished or while another process writes it.

A scan writes each block as one shard, beside its place, and renames it, so a shard is there as a
whole or not at all. A block is shown once its shard decodes and has a value in each cell that is to
have one, which is the store's own rule of what is done. Nothing else is read of an unfinished map.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import MapError
from slidescan.geometry import Box
from slidescan.maps.finished import Settings, settings_of
from slidescan.maps.ngff import halve
from slidescan.maps.shards import Stamp, stamp_of, stamps
from slidescan.maps.store import Heatmap
from slidescan.tools.urls import Place, Url
from slidescan.viewer.cache import Cache
from slidescan.viewer.descriptions import TILE_CELLS

POLL_S = 0.5
"""The disk is asked for new blocks at most this often, however many pages are open."""

REMOTE_POLL_S = 5.0
"""The same for an object store."""

BUDGET_S = 0.25
"""Time in which new blocks are read at one poll; what is left waits for the next."""

BINS = 1000
"""Of the histogram, over [0, 1]."""

HALVED = 128
"""Coarser tiles of an unfinished map that are kept, 256 KiB each."""

RECENT = 12
"""Blocks by whose times the time left is estimated."""

STALLED = 10
"""No block in this many times the usual time: the scan has stopped."""

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tile:
    """Cells of a level: their values, NaN where not scanned, and the share that was, 0 to 255."""

    values: Values
    coverage: NDArray[np.uint8]
    version: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a scan is, in cells."""

    version: int
    done: int
    total: int
    seconds_left: float | None
    """None where the scan has finished, has stopped or has just begun."""
    complete: bool
    boxes: list[Box]
    """The blocks that are new since a version."""


@dataclass(slots=True)
class _Block:
    """A block that is done."""

    version: int
    stamp: Stamp
    cells: int


@dataclass(slots=True)
class _Statistics:
    """Of the blocks that were read."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    highest: float | None = None

    def add(self, values: Values) -> None:
        finite = values[np.isfinite(values)]
        if finite.size:
            bins = np.clip((finite * BINS).astype(np.intp), 0, BINS - 1)
            self.counts += np.bincount(bins, minlength=BINS)
            self.highest = max(float(finite.max()), self.highest or 0.0)


class Watched:
    """A map that may be growing. Methods may be called from any thread.

    `version` grows whenever something was added or replaced, also over restarts of the server.
    """

    def __init__(self, path: Place) -> None:
        """Open the map. Raises MapError."""
        self.path = path
        self._poll_s = REMOTE_POLL_S if isinstance(path, Url) else POLL_S
        self.version = int(time.time() * 1000)  # greater than any that a page has seen
        self._lock = threading.RLock()
        self._polled_at = 0.0
        self._halved = Cache[Values](HALVED)
        self._load()
        self.refresh()

    def _load(self) -> None:
        """Read record and masks anew; forget all blocks."""
        root, gaps = stamp_of(self.path / "zarr.json"), _gap_files(self.path)
        heatmap = Heatmap.open(self.path)
        settings_of(heatmap, Settings)
        self.heatmap, self._root, self._gaps = heatmap, root, gaps
        # The first block is cut only where the map is smaller.
        self._side = max(next(heatmap.blocks()).shape)
        self._boxes = {_shard_name(box, self._side): box for box in heatmap.blocks()}
        self._blocks: dict[Box, _Block] = {}
        self._unread = set(self._boxes) if self.heatmap.complete else set[str]()
        self._seen = np.zeros(self.heatmap.grid.shape, np.bool_)
        self._statistics = _Statistics()
        self.version += 1
        self._loaded = self.version

    @property
    def complete(self) -> bool:
        return self.heatmap.complete

    def refresh(self) -> None:
        """Look for new blocks, unless that was done less than `POLL_S` ago.

        Raises MapError where the map is gone or is no longer readable.
        """
        with self._lock:
            if time.monotonic() - self._polled_at < self._poll_s:
                return
            try:
                self._look()
            finally:
                self._polled_at = time.monotonic()

    def _look(self) -> None:
        if stamp_of(self.path / "zarr.json") != self._root:
            self._reopen()
        if not self.complete:
            self._find_new()

    def _reopen(self) -> None:
        """Follow a change of the record: the scan has finished, or the map was replaced."""
        before, blocks, seen = self.heatmap, self._blocks, self._seen
        statistics = self._statistics
        self._load()
        now = self.heatmap
        same = (before.settings, before.grid) == (now.settings, now.grid)
        if same and np.array_equal(before.mask, now.mask) and self._unchanged(blocks):
            self._blocks, self._seen, self._statistics = blocks, seen, statistics
            self._unread = {name for name, box in self._boxes.items() if box not in blocks}
            self._loaded = 0

    def _unchanged(self, blocks: dict[Box, _Block]) -> bool:
        return all(self._shard(box) == block.stamp for box, block in blocks.items())

    def _shard(self, box: Box) -> Stamp | None:
        return stamp_of(self.path / "0" / "c" / _shard_name(box, self._side))

    def _find_new(self) -> None:
        """Read the shards that have appeared, as many as the time allows."""
        deadline = time.monotonic() + BUDGET_S
        for name, stamp in stamps(self.path, "0"):
            box = self._boxes.get(name)
            if box is None:
                continue
            known = self._blocks.get(box)
            if known is None:
                self._read_new(box, stamp)
            elif known.stamp != stamp:  # was damaged, and is scanned again
                self._load()
                return
            if time.monotonic() > deadline:
                return

    def _read_new(self, box: Box, stamp: Stamp) -> None:
        """Take a block if it is done."""
        try:
            values = self.heatmap.read(box)
        except MapError:
            return  # torn by a power failure; the scan writes it again
        finite = np.isfinite(values)
        if not np.array_equal(finite, self.heatmap.scanned[box.slices]):
            self._take_gaps()
            if not np.array_equal(finite, self.heatmap.scanned[box.slices]):
                return
        self.version += 1
        self._blocks[box] = _Block(self.version, stamp, int(np.count_nonzero(finite)))
        self._seen[box.slices] = finite
        self._statistics.add(values)

    def _take_gaps(self) -> None:
        """Read the gaps again where the scan has found further ones."""
        files = _gap_files(self.path)
        if files != self._gaps:
            self._gaps, self.heatmap = files, Heatmap.open(self.path)

    # --- what the page asks for -----------------------------------------------------------------

    def tile(self, level: int, column: int, row: int) -> Tile | None:
        """A tile of a level, finest first; None where there is none.

        Raises MapError where its shard is damaged.
        """
        shapes = self.heatmap.shapes
        if not 0 <= level < len(shapes) or min(column, row) < 0:
            return None
        y, x = row * TILE_CELLS, column * TILE_CELLS
        box = Box(y, x, y + TILE_CELLS, x + TILE_CELLS).clip(Box(0, 0, *shapes[level]))
        if not box.area:
            return None
        self.refresh()
        version = self.version
        if self.complete:
            return Tile(self.heatmap.read(box, level), self._coverage(box, level), version)
        return Tile(self._growing(level, box), self._coverage(box, level), version)

    def _growing(self, level: int, box: Box) -> Values:
        """Cells of an unfinished map, whose coarser levels are not on the disk yet."""
        if level == 0:
            return self._finest(box)
        key = level, box, self._newest(level, box)
        return self._halved.get(key, lambda: self._halve(level, box))

    def _halve(self, level: int, box: Box) -> Values:
        finer = Box(0, 0, *self.heatmap.shapes[level - 1])
        under = Box(2 * box.y0, 2 * box.x0, 2 * box.y1, 2 * box.x1).clip(finer)
        values = np.full(under.shape, np.nan, np.float32)
        for part in under.split(TILE_CELLS):
            here = part.shift(-under.y0, -under.x0).slices
            if self._newest(level - 1, part):
                values[here] = self._growing(level - 1, part)
        return halve(values)

    def _finest(self, box: Box) -> Values:
        values = np.full(box.shape, np.nan, np.float32)
        for block in self._blocks_of(0, box):
            part = block.clip(box)
            try:
                values[part.shift(-box.y0, -box.x0).slices] = self.heatmap.read(part)
            except MapError:
                continue  # replaced at this moment; the next poll finds it
        return values

    def _newest(self, level: int, box: Box) -> int:
        """The version of the newest block under a box; 0 where none is done."""
        versions = [self._blocks[block].version for block in self._blocks_of(level, box)]
        return max(versions, default=0)

    def _blocks_of(self, level: int, box: Box) -> list[Box]:
        """The done blocks under a box of a level."""
        side, step = self._side, 1 << level
        cells = Box(box.y0 * step, box.x0 * step, box.y1 * step, box.x1 * step)
        cells = cells.clip(self.heatmap.grid.cells)
        names = (
            f"{row}/{column}"
            for row in range(cells.y0 // side, -(-cells.y1 // side))
            for column in range(cells.x0 // side, -(-cells.x1 // side))
        )
        boxes = (self._boxes.get(name) for name in names)
        return [box for box in boxes if box is not None and box in self._blocks]

    def _coverage(self, box: Box, level: int) -> NDArray[np.uint8]:
        """The share of each coarse cell that has a value, of its part inside the map."""
        step, whole = 1 << level, self.heatmap.grid.cells
        under = Box(box.y0 * step, box.x0 * step, box.y1 * step, box.x1 * step).clip(whole)
        has = (self.heatmap.scanned if self.complete else self._seen)[under.slices]
        if level == 0:
            return has.astype(np.uint8) * np.uint8(255)
        rows, columns = (np.arange(n) * step for n in box.shape)
        sums = np.add.reduceat(np.add.reduceat(has, rows, axis=0, dtype=np.uint32), columns, axis=1)
        heights = np.diff(rows, append=under.shape[0])
        widths = np.diff(columns, append=under.shape[1])
        share: NDArray[np.float64] = sums * 255.0 / np.outer(heights, widths)
        # A cell with any value is seen, and one that lacks any is not whole.
        return np.clip(np.floor(share), sums > 0, 255).astype(np.uint8)

    def value(self, row: int, column: int) -> float | None:
        """The value of a cell; None where it was not scanned (yet). Raises MapError."""
        self.refresh()
        cell = Box(row, column, row + 1, column + 1)
        has = self.heatmap.scanned if self.complete else self._seen
        return float(self.heatmap.read(cell)[0, 0]) if has[row, column] else None

    def statistics(self) -> tuple[int, NDArray[np.int64], float | None]:
        """Version, cells in each of `BINS` bins, and the highest value, of all that can be read."""
        self.refresh()
        with self._lock:
            while self._unread:
                box = self._boxes[self._unread.pop()]
                if self.heatmap.scanned[box.slices].any():
                    try:
                        self._statistics.add(self.heatmap.read(box))
                    except MapError:
                        continue  # its tiles say so
            return self.version, self._statistics.counts.copy(), self._statistics.highest

    def progress(self, since: int) -> Progress:
        """How far the scan is, and which blocks are new since a version."""
        self.refresh()
        with self._lock:
            total = int(np.count_nonzero(self.heatmap.scanned))
            done = total if self.complete else sum(b.cells for b in self._blocks.values())
            boxes = [box for box, block in self._blocks.items() if block.version > since]
            if self._loaded > since:
                boxes = [self.heatmap.grid.cells]
            left = None if self.complete else self._seconds_left(total - done)
            return Progress(self.version, done, total, left, self.complete, boxes)

    def _seconds_left(self, cells: int) -> float | None:
        """By the times at which the last blocks were written."""
        recent = sorted((b.stamp[0], b.cells) for b in self._blocks.values())[-RECENT:]
        recent = [each for each in recent if each[1]]
        if len(recent) < 3:
            return None
        took = recent[-1][0] - recent[0][0]
        rate = sum(n for _, n in recent[1:]) / took if took > 0 else 0.0
        waited = max(0.0, time.time() - recent[-1][0])
        if not rate or waited > STALLED * max(1.0, took / (len(recent) - 1)):
            return None
        return max(0.0, cells / rate - waited)


def _shard_name(box: Box, side: int) -> str:
    return f"{box.y0 // side}/{box.x0 // side}"


def _gap_files(path: Place) -> list[tuple[str, Stamp]]:
    return stamps(path, "labels/gaps/0")
