"""The scan itself: plan, read, score, write. It knows no slide format, no store and no framework.

A worker reads a tile and waits until the engine has scored it. There is one worker for each
thread and one for each call that the engine takes at once, so that some read while others wait.
Blocks are written in a thread of its own. All queues are bounded, so memory does not grow with the
slide.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
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
"""Scan-plane pixels between the origins of neighbouring tiles; 88 px of halo are added.

Tiles of twice the side are a little faster and take more than twice the memory (1.9 GB instead of
0.8 GB)."""

AHEAD = 2
"""Tiles in progress for each worker, so that a slow one does not delay those after it."""

STEP_CELLS = 16
"""Tiles are cut to multiples of this, because engines compile kernels for each shape."""


@dataclass(frozen=True, slots=True)
class Work:
    """A block and its tiles that hold a selected cell; boxes of cells."""

    block: Box
    tiles: tuple[Box, ...]


_BlockTile = tuple[Work, Box]
"""A block with its tiles, and one of them."""

_Scored = tuple[NDArray[np.float32], NDArray[np.bool_] | None]
"""The values of a tile, NaN where not scanned, and its selected cells in gaps if it has any."""


def plan_work(blocks: Iterable[Box], mask: NDArray[np.bool_], tile_cells: int) -> Iterator[Work]:
    """Split each block into tiles and drop those without a selected cell.

    Tiles are cut to the bounds of their selected cells, in steps of `STEP_CELLS`, so that most
    glass at their edges is neither read nor computed.
    """
    for block in blocks:
        tiles = (_selected(tile, mask) for tile in block.split(tile_cells))
        chosen = tuple(tile for tile in tiles if tile.area)
        if chosen:
            yield Work(block, chosen)


def _selected(tile: Box, mask: NDArray[np.bool_]) -> Box:
    """The part of `tile` that holds its selected cells; empty if there are none."""
    cells = mask[tile.slices]
    if not cells.any():
        return Box(tile.y0, tile.x0, tile.y0, tile.x0)
    (y0, y1), (x0, x1) = (_bounds(np.any(cells, axis=axis)) for axis in (1, 0))
    return Box(y0, x0, y1, x1).shift(tile.y0, tile.x0).clip(tile)


def _bounds(selected: NDArray[np.bool_]) -> tuple[int, int]:
    """From the first to the last selected index, rounded outwards to `STEP_CELLS`."""
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
    """Score every selected cell and write each block once all of its tiles are scored.

    If anything stops the scan (an unreadable region, a full disk, Ctrl-C), blocks that were
    finished before are still written; then the error is raised.
    """
    pending: deque[Future[None]] = deque()
    values, gaps = np.empty((0, 0), np.float32), np.empty((0, 0), np.bool_)
    with (
        ThreadPoolExecutor(1, "write") as writer,
        _scored_tiles(work, grid, mask, reader, engine, threads) as scored,
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


@contextmanager
def _scored_tiles(
    work: Iterable[Work],
    grid: Grid,
    mask: NDArray[np.bool_],
    reader: Reader,
    engine: Engine,
    threads: int,
) -> Iterator[Iterator[tuple[_BlockTile, _Scored]]]:
    """Read and score tiles in threads; yields each with its values and gaps, in order."""
    tiles = ((item, tile) for item in work for tile in item.tiles)
    calls = calls_at_once(engine)
    workers = threads + calls
    with ThreadPoolExecutor(calls, "score") as scorers:

        def read_and_score(block_tile: _BlockTile) -> _Scored:
            _, tile = block_tile
            pixels, missing = read_with_gaps(reader, grid.pixels(tile))
            wanted, gaps = mask[tile.slices], None
            if missing is not None:
                gaps = wanted & _touched(missing, grid.field)
                wanted = wanted & ~gaps
                if not wanted.any():
                    return np.full(tile.shape, np.nan, np.float32), gaps
            # In threads of the engine's own: torch on a CPU keeps a team of threads per caller.
            scores = scorers.submit(_score, engine, pixels, wanted).result()
            return np.where(wanted, scores, np.float32(np.nan)), gaps

        with (
            ThreadPoolExecutor(workers, "read") as readers,
            closing(prefetch(readers, read_and_score, tiles, workers * AHEAD)) as scored,
        ):
            yield scored


def _touched(missing: NDArray[np.bool_], field: Field) -> NDArray[np.bool_]:
    """Which cells have a missing pixel in their field of view, (H, W) pixels to (h, w) cells."""
    for axis in (0, 1):
        starts = np.arange(field.outputs(missing.shape[axis])) * field.stride
        missing = any_in_windows(missing, starts, field.size, axis)
    return missing


def _score(
    engine: Engine, pixels: NDArray[np.uint8], wanted: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Scores (h, w) of a tile, valid at least where `wanted`."""
    if isinstance(engine, Selective):
        scores = engine.select(pixels[None], wanted[None])
    else:
        scores = engine(pixels[None])
    of_tile: NDArray[np.float32] = scores[0]
    return of_tile


def score_patches(
    cells: Iterable[Box], grid: Grid, reader: Reader, engine: Engine, batch: int = BATCH
) -> Iterator[float]:
    """Scores of cells, each from its own patch alone: what a map must equal."""
    patches: list[NDArray[np.uint8]] = []
    for cell in cells:
        patches.append(reader.read(grid.pixels(cell)))
        if len(patches) == batch:
            yield from engine(np.stack(patches))[:, 0, 0].tolist()
            patches = []
    if patches:
        yield from engine(np.stack(patches))[:, 0, 0].tolist()
