"""The scan with fakes that enforce its contracts: order, bounds, errors, and no seams."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from waiting import wait_until

from slidescan.errors import SlideError, WriteError
from slidescan.geometry import Box, Grid
from slidescan.scanning.pipeline import AHEAD, STEP_CELLS, Work, plan_work, scan, score_patches
from slidescan.slides.overview import assemble

GRID = Grid((521, 395))  # 66 x 50 cells, the last of both cut by the slide's edge
PIXELS = np.random.default_rng(0).integers(0, 256, (*GRID.extent_px, 3), dtype=np.uint8)
ALL = np.ones(GRID.shape, bool)
BLOCK, TILE = 32, 8  # cells


def window(box: Box, pixels: NDArray[np.uint8] = PIXELS) -> NDArray[np.uint8]:
    """A box of an image that is white all around."""
    out = np.full((*box.shape, 3), 255, np.uint8)
    inside = box.clip(Box(0, 0, *pixels.shape[:2]))
    out[inside.shift(-box.y0, -box.x0).slices] = pixels[inside.slices]
    return out


def expected() -> NDArray[np.float32]:
    """Each cell from its definition: the mean of the 96 px around the centre of its square."""
    starts = GRID.stride // 2 - 48
    return np.array(
        [
            [
                window(Box(y, x, y + 96, x + 96)).mean()
                for x in range(starts, starts + GRID.shape[1] * 8, 8)
            ]
            for y in range(starts, starts + GRID.shape[0] * 8, 8)
        ],
        np.float32,
    )


EXPECTED = expected()


class MeanEngine:
    """The mean of every 96-px window in steps of 8; sums of integers, so exact in any tiling."""

    def __init__(self) -> None:
        self.calls = 0
        self.busy = threading.Lock()

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert self.busy.acquire(blocking=False), "one call at a time"
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 4
        self.calls += 1
        sums = pixels.sum(axis=3, dtype=np.int64)
        for axis in (1, 2):
            sums = sliding_window_view(sums, 96, axis)[(slice(None),) * axis + (slice(0, None, 8),)]
            sums = sums.sum(axis=-1)
        self.busy.release()
        return (sums / (96 * 96 * 3)).astype(np.float32)


@dataclass
class ArrayReader:
    """Reads `PIXELS` and counts how many of the arrays it gave are alive."""

    on_read: Callable[[Box], object] = lambda box: None
    alive: int = 0
    most: int = 0
    reads: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, box: Box) -> NDArray[np.uint8]:
        self.on_read(box)
        pixels = window(box)
        with self.lock:
            self.reads += 1
            self.alive += 1
            self.most = max(self.most, self.alive)
        weakref.finalize(pixels, self.gone)
        return pixels

    def gone(self) -> None:
        with self.lock:
            self.alive -= 1


@dataclass
class MapSink:
    """A map in memory that insists on being written block by block, in order, by one thread."""

    values: NDArray[np.float32] = field(default_factory=lambda: np.full(GRID.shape, -1, np.float32))
    blocks: list[Box] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def write(self, block: Box, values: NDArray[np.float32], gaps: NDArray[np.bool_]) -> None:
        assert values.dtype == np.float32
        assert values.shape == block.shape
        assert block not in self.blocks
        self.values[block.slices] = values
        self.blocks.append(block)
        self.threads.add(threading.get_ident())


def work(
    mask: NDArray[np.bool_] = ALL, block_cells: int = BLOCK, tile_cells: int = TILE
) -> list[Work]:
    return list(plan_work(GRID.cells.split(block_cells), mask, tile_cells))


# --- values


@settings(max_examples=20)
@given(
    tile=st.integers(3, 40),
    block=st.integers(5, 70),
    threads=st.integers(1, 4),
    share=st.sampled_from([1.0, 0.5, 0.02, 0.0]),
    seed=st.integers(0, 9),
)
def test_tiles_and_blocks_never_change_a_value(
    tile: int, block: int, threads: int, share: float, seed: int
) -> None:
    mask = np.random.default_rng(seed).random(GRID.shape) < share
    sink = MapSink()
    todo = work(mask, block, tile)
    scan(todo, GRID, mask, ArrayReader(), MeanEngine(), sink, threads=threads)
    done = np.zeros(GRID.shape, bool)
    for item in todo:
        done[item.block.slices] = True
    np.testing.assert_array_equal(sink.values[done & mask], EXPECTED[done & mask])
    assert np.isnan(sink.values[done & ~mask]).all()
    assert not mask[~done].any()
    assert (sink.values[~done] == -1).all()


def test_a_cell_scored_as_a_patch_is_the_cell_of_the_scan() -> None:
    cells = [Box(r, c, r + 1, c + 1) for r, c in [(0, 0), (65, 49), (3, 40), (31, 32), (12, 12)]]
    scores = list(score_patches(cells, GRID, ArrayReader(), MeanEngine(), batch=2))
    assert scores == [EXPECTED[c.y0, c.x0] for c in cells]


def test_only_tiles_with_selected_cells_are_read() -> None:
    mask = np.zeros(GRID.shape, bool)
    mask[40, 3] = mask[43, 5] = True
    reader, engine, sink, seen = ArrayReader(), MeanEngine(), MapSink(), list[Box]()
    reader.on_read = seen.append
    scan(work(mask, tile_cells=32), GRID, mask, reader, engine, sink)
    # Rows 8 to 11 of the tile at row 32, columns 3 to 5 of the one at 0: in steps of 16 the first.
    assert seen == [GRID.pixels(Box(32, 0, 48, 16))]
    assert sink.blocks == [Box(32, 0, 64, 32)]
    assert engine.calls == 1


def test_assemble_is_the_whole_box() -> None:
    box = Box(-5, 100, 200, 431)
    np.testing.assert_array_equal(assemble(ArrayReader(), box, 37, threads=3), window(box))


# --- order and bounds


def test_each_block_is_written_once_in_order_from_one_thread() -> None:
    def dawdle(box: Box) -> None:
        time.sleep(0.002 * (box.x0 % 3))  # later reads overtake earlier ones

    sink, tiles = MapSink(), list[Box]()
    todo = work()
    scan(todo, GRID, ALL, ArrayReader(dawdle), MeanEngine(), sink, threads=4, on_tile=tiles.append)
    assert sink.blocks == [item.block for item in todo]
    assert len(sink.threads) == 1
    assert threading.get_ident() not in sink.threads
    assert tiles == [tile for item in todo for tile in item.tiles]


@pytest.mark.parametrize("threads", [1, 3])
def test_tiles_in_memory_are_bounded(threads: int) -> None:
    class SlowEngine(MeanEngine):
        def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            # Reading runs ahead as far as it may.
            assert wait_until(lambda: reader.most > threads)
            time.sleep(0.005)
            return super().__call__(pixels)

    reader = ArrayReader()
    todo = work()
    assert sum(len(item.tiles) for item in todo) > 60
    scan(todo, GRID, ALL, reader, SlowEngine(), MapSink(), threads=threads)
    # One for each worker, and the one that was scored and is not gone yet.
    assert threads < reader.most <= threads + 1 + 1
    assert reader.alive == 0


def test_a_slow_disk_holds_the_scan_up() -> None:
    """At most three blocks are in memory: one being written, one waiting, one being filled; and of
    the tiles that come next, those that are in the making."""
    grid = Grid((8, 8 * 40))
    mask = np.ones(grid.shape, bool)
    todo = list(plan_work(grid.cells.split(2), mask, 2))
    leads: list[int] = []
    engine = MeanEngine()

    class SlowSink:
        written = 0

        def write(self, block: Box, values: NDArray[np.float32], gaps: NDArray[np.bool_]) -> None:
            time.sleep(0.01)
            self.written += 1
            leads.append(engine.calls - self.written)

    scan(todo, grid, mask, ArrayReader(), engine, SlowSink(), threads=1)
    assert len(leads) == len(todo) == 20
    assert 1 <= max(leads) <= 3 + 2 * AHEAD + 1


# --- errors


def test_blocks_before_an_unreadable_tile_are_written() -> None:
    todo = work()
    bad = GRID.pixels(todo[2].tiles[5])

    def fail(box: Box) -> None:
        if box == bad:
            raise SlideError("tile 5 is garbage")

    sink, engine = MapSink(), MeanEngine()
    with pytest.raises(SlideError, match="tile 5 is garbage"):
        scan(todo, GRID, ALL, ArrayReader(fail), engine, sink)
    assert sink.blocks == [item.block for item in todo[:2]]
    np.testing.assert_array_equal(sink.values[:32], EXPECTED[:32])
    sound = len(todo[0].tiles) + len(todo[1].tiles) + 5
    assert sound <= engine.calls <= sound + 3 * AHEAD  # later ones were in the making


def test_a_full_disk_ends_the_scan() -> None:
    class FullSink(MapSink):
        def write(self, block: Box, values: NDArray[np.float32], gaps: NDArray[np.bool_]) -> None:
            if len(self.blocks) == 1:
                raise WriteError("disk full")
            super().write(block, values, gaps)

    sink, reader = FullSink(), ArrayReader()
    with pytest.raises(WriteError, match="disk full"):
        scan(work(), GRID, ALL, reader, MeanEngine(), sink)
    assert len(sink.blocks) == 1


def test_a_full_disk_at_the_last_block_is_no_success() -> None:
    class FullSink(MapSink):
        def write(self, block: Box, values: NDArray[np.float32], gaps: NDArray[np.bool_]) -> None:
            if block == last:
                raise WriteError("disk full")

    last = work()[-1].block
    with pytest.raises(WriteError, match="disk full"):
        scan(work(), GRID, ALL, ArrayReader(), MeanEngine(), FullSink())


def test_ctrl_c_keeps_finished_blocks_and_leaves_no_thread() -> None:
    class Interrupted(MeanEngine):
        def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            if self.calls == len(todo[0].tiles) + 3:
                raise KeyboardInterrupt
            return super().__call__(pixels)

    todo, sink, reader = work(), MapSink(), ArrayReader()
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        scan(todo, GRID, ALL, reader, Interrupted(), sink)
    assert sink.blocks == [todo[0].block]
    assert threading.active_count() == before
    assert reader.reads < sum(len(item.tiles) for item in todo)


def test_few_shapes_reach_the_engine() -> None:
    """An engine keeps what it compiled for a shape, so ragged tissue must not give it hundreds."""
    rng = np.random.default_rng(0)
    grid = Grid((8192, 8192))
    mask = np.zeros(grid.shape, bool)
    for _ in range(400):
        y, x = rng.integers(0, 1000, 2)
        mask[y : y + rng.integers(1, 40), x : x + rng.integers(1, 40)] = True
    tiles = [t for w in plan_work(grid.cells.split(256), mask, 128) for t in w.tiles]
    assert len({t.shape for t in tiles}) <= (128 // STEP_CELLS) ** 2
    covered = np.zeros_like(mask)
    for tile in tiles:
        covered[tile.slices] = True
    assert not (mask & ~covered).any()


# --- several calls at a time


@dataclass
class Team:
    """Takes three calls at a time, and the first of them longest. Fulfils scan.Parallel."""

    at_once: int = 3
    most: int = 0
    running: int = 0
    done: int = 0
    meet: threading.Barrier = field(default_factory=lambda: threading.Barrier(3))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            place, self.done = self.done, self.done + 1
        if place < self.at_once:
            self.meet.wait(30)
        time.sleep(0.002 * (2 - place % 3))  # later tiles overtake earlier ones
        scores = MeanEngine()(pixels)
        with self.lock:
            self.running -= 1
        return scores


def test_an_engine_that_takes_several_calls_gets_them_and_the_map_is_the_same() -> None:
    team, sink, tiles, todo = Team(), MapSink(), list[Box](), work()
    before = threading.active_count()
    scan(todo, GRID, ALL, ArrayReader(), team, sink, threads=2, on_tile=tiles.append)
    np.testing.assert_array_equal(sink.values, EXPECTED)
    assert team.most == 3
    assert tiles == [tile for item in todo for tile in item.tiles]
    assert sink.blocks == [item.block for item in todo]
    assert threading.active_count() == before


def test_tiles_in_memory_are_bounded_with_several_calls_as_well() -> None:
    reader, team = ArrayReader(), Team()
    scan(work(), GRID, ALL, reader, team, MapSink(), threads=2)
    # One for each worker, and those that were scored and are not gone yet.
    assert reader.most <= 2 + team.at_once + team.at_once
    assert reader.alive == 0


def test_blocks_before_one_that_fails_among_several_are_written() -> None:
    class Failing(Team):
        def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            if self.done > len(todo[0].tiles) + 5:
                raise SlideError("out of memory")
            return super().__call__(pixels)

    todo, sink, reader = work(), MapSink(), ArrayReader()
    before = threading.active_count()
    with pytest.raises(SlideError, match="out of memory"):
        scan(todo, GRID, ALL, reader, Failing(), sink)
    assert sink.blocks == [todo[0].block]
    assert threading.active_count() == before
    assert reader.reads < sum(len(item.tiles) for item in todo)


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_tile_is_read_for_every_thread_and_every_call(at_once: int) -> None:
    """Processors read while the engine has as many tiles as it takes."""
    reading = threading.Barrier(2 + at_once)  # broken unless so many are reading together

    def meet(box: Box) -> None:
        if next(begun) < reading.parties:
            reading.wait(30)

    class Busy(MeanEngine):
        def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            with lock:
                return super().__call__(pixels)

    engine, sink, lock, begun = Busy(), MapSink(), threading.Lock(), itertools.count()
    if at_once > 1:
        engine.at_once = at_once  # type: ignore[attr-defined]
    scan(work(), GRID, ALL, ArrayReader(meet), engine, sink, threads=2)
    np.testing.assert_array_equal(sink.values, EXPECTED)
