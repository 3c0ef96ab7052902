"""The scan itself: plan, read, infer, write. Knows no slide format, no store and no framework.

A worker reads a tile and has it scored; there is one for every thread, and one for every call that
the engine takes at a time, so that processors read while others wait for the engine. Writing runs
behind in a thread of its own. All queues are bounded, so memory does not grow with the slide.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidescan.geometry import Box, Field, Grid
from slidescan.protocols import (
    BATCH,
    Engine,
    Reader,
    Selective,
    Sink,
    calls_at_once,
    read_with_gaps,
)
from slidescan.tools.prefetch import prefetch
from slidescan.tools.windows import any_in_windows

TILE_PX = 1024
"""Scan-plane pixels between the origins of neighbouring tiles; the 88 px of halo come on top.

Twice as much scans a little faster in more than twice the memory (1.9 against 0.8 GB)."""

AHEAD = 2
"""Tiles in the making, per worker: one that takes long does not hold up those behind it."""

STEP_CELLS = 16
"""Tiles are cut to multiples of this: engines keep compiled kernels for every shape they meet."""


@dataclass(frozen=True, slots=True)
class Work:
    """A block and those of its tiles that hold a selected cell; boxes of cells."""

    block: Box
    tiles: tuple[Box, ...]


_Job = tuple[Work, Box]
"""A block and one of its tiles."""

_Scored = tuple[NDArray[np.float32], NDArray[np.bool_] | None]
"""The values of a tile, NaN where not scanned, and its selected cells in gaps if it has any."""


def plan_work(blocks: Iterable[Box], mask: NDArray[np.bool_], tile_cells: int) -> Iterator[Work]:
    """Split each block into tiles and drop those without a selected cell.

    Tiles are cut to the bounds of their selected cells, in steps of `STEP_CELLS`: most glass at
    their rim is neither read nor computed.
    """
    for block in blocks:
        tiles = (_selected(tile, mask) for tile in block.split(tile_cells))
        chosen = tuple(tile for tile in tiles if tile.area)
        if chosen:
            yield Work(block, chosen)


def _selected(tile: Box, mask: NDArray[np.bool_]) -> Box:
    """The part of `tile` that holds its selected cells, empty where there are none."""
    cells = mask[tile.slices]
    if not cells.any():
        return Box(tile.y0, tile.x0, tile.y0, tile.x0)
    (y0, y1), (x0, x1) = (_bounds(np.any(cells, axis=axis)) for axis in (1, 0))
    return Box(y0, x0, y1, x1).shift(tile.y0, tile.x0).clip(tile)


def _bounds(selected: NDArray[np.bool_]) -> tuple[int, int]:
    """From the first to the last selected one, outwards to whole steps."""
    where = np.flatnonzero(selected)
    first, last = int(where[0]), int(where[-1])
    return first // STEP_CELLS * STEP_CELLS, (last // STEP_CELLS + 1) * STEP_CELLS


def scan(
    work: Iterable[Work],
    grid: Grid,
    mask: NDArray[np.bool_],
    reader: Reader,
    engine: Engine,
    sink: Sink,
    *,
    threads: int = 2,
    on_tile: Callable[[Box], object] = lambda tile: None,
) -> None:
    """Score every selected cell and hand over each block once all of its tiles are there.

    Whatever stops the scan (an unreadable region, a full disk, Ctrl-C), blocks finished before
    are still written; then the error is raised.
    """
    jobs = ((item, tile) for item in work for tile in item.tiles)
    at_once = calls_at_once(engine)
    workers = threads + at_once

    def scores_of(job: _Job) -> _Scored:
        _, tile = job
        pixels, missing = read_with_gaps(reader, grid.pixels(tile))
        wanted, gaps = mask[tile.slices], None
        if missing is not None:
            gaps = wanted & _touched(missing, grid.field)
            wanted = wanted & ~gaps
            if not wanted.any():
                return np.full(tile.shape, np.nan, np.float32), gaps
        # In threads of the engine's own: torch on a CPU has a team of threads for each that calls.
        scores = lanes.submit(_score, engine, pixels, wanted).result()
        return np.where(wanted, scores, np.float32(np.nan)), gaps

    pending: deque[Future[None]] = deque()
    values, gaps = np.empty((0, 0), np.float32), np.empty((0, 0), np.bool_)
    with (
        ThreadPoolExecutor(1, "write") as writer,
        ThreadPoolExecutor(at_once, "score") as lanes,
        ThreadPoolExecutor(workers, "read") as pool,
        closing(prefetch(pool, scores_of, jobs, workers * AHEAD)) as scored,
    ):
        try:
            for (item, tile), (scores, unseen) in scored:
                if tile == item.tiles[0]:
                    values = np.full(item.block.shape, np.nan, np.float32)
                    gaps = np.zeros(item.block.shape, np.bool_)
                here = tile.shift(-item.block.y0, -item.block.x0).slices
                values[here] = scores
                if unseen is not None:
                    gaps[here] = unseen
                on_tile(tile)
                if tile == item.tiles[-1]:
                    while len(pending) > 1:
                        pending.popleft().result()
                    pending.append(writer.submit(sink.write, item.block, values, gaps))
        finally:
            for future in pending:
                future.result()


def _touched(missing: NDArray[np.bool_], field: Field) -> NDArray[np.bool_]:
    """Which cells have a missing pixel in their field of view, (H, W) pixels to (h, w) cells."""
    for axis in (0, 1):
        starts = np.arange(field.outputs(missing.shape[axis])) * field.stride
        missing = any_in_windows(missing, starts, field.size, axis)
    return missing


def _score(
    engine: Engine, pixels: NDArray[np.uint8], wanted: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """The cells of one tile, at least those `wanted`; (h, w)."""
    if isinstance(engine, Selective):
        scores = engine.select(pixels[None], wanted[None])
    else:
        scores = engine(pixels[None])
    of_tile: NDArray[np.float32] = scores[0]
    return of_tile


def score_patches(
    cells: Iterable[Box], grid: Grid, reader: Reader, engine: Engine, batch: int = BATCH
) -> Iterator[float]:
    """The same cells one by one, each from its own patch: the classifier a map must equal."""
    patches: list[NDArray[np.uint8]] = []
    for cell in cells:
        patches.append(reader.read(grid.pixels(cell)))
        if len(patches) == batch:
            yield from engine(np.stack(patches))[:, 0, 0].tolist()
            patches = []
    if patches:
        yield from engine(np.stack(patches))[:, 0, 0].tolist()
