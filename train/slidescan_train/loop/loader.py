"""Batches prepared ahead by a thread or by processes, with the same content."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import forkserver
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slidescan.errors import ConfigError, SlidescanError
from slidescan.patches.labelled.patches import Patches
from slidescan.tools.prefetch import prefetch
from slidescan.tools.worker_processes import obey_parent, sigint_blocked
from slidescan_train.augmentation import Augment
from slidescan_train.recipe.augment_config import AugmentConfig
from slidescan_train.recipe.config import TrainConfig

Rows = NDArray[np.intp]
Item = tuple[int, Rows]
"""An epoch, and the rows of a batch."""
Prepared = tuple[NDArray[np.uint8], NDArray[np.int64]]

AHEAD = 2
"""Batches that each worker prepares ahead."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Augmented patches, in the order of their rows."""

    pixels: Tensor
    """(n, 96, 96, 3) uint8 RGB."""
    labels: Tensor
    """(n,) int64, 1 for tumour."""
    rows: Rows
    """(n,): rows of the patches in the data."""


def steps(count: int, batch: int, seed: int, epoch: int) -> list[Rows]:
    """Return the rows of each optimiser step of an epoch: all `count` rows shuffled and cut.

    The remainder (fewer than `batch` rows) is left out of this epoch. If `batch` is more than
    `count`, one step has all rows.
    """
    order = np.random.default_rng((seed, epoch)).permutation(count)
    size = min(batch, count)
    return [order[start : start + size] for start in range(0, count - size + 1, size)]


def micro_batches(rows: Rows, micro: int, processes: int) -> list[Rows]:
    """Divide a step into near-equal micro-batches of at most `micro` rows, as many per process.

    Raises:
        ConfigError: a micro-batch would have fewer than the two patches that BatchNorm needs.
    """
    parts = processes * math.ceil(len(rows) / (micro * processes))
    if len(rows) < 2 * parts:
        raise ConfigError(
            f"a step of {len(rows)} patches in {parts} micro-batches (micro_batch {micro}, "
            f"processes {processes}) leaves one fewer than 2; raise batch or micro_batch, or take "
            "fewer processes"
        )
    return np.array_split(rows, parts)


def epoch_plan(count: int, config: TrainConfig, epoch: int, processes: int = 1) -> list[list[Rows]]:
    """Return the micro-batches of each step of an epoch over `count` patches."""
    return [
        micro_batches(rows, config.micro_batch, processes)
        for rows in steps(count, config.batch, config.seed, epoch)
    ]


class Loader:
    """Prepares batches ahead, in a thread (`workers` 0) or in that many processes.

    The augmentation of a patch depends only on the seed, the epoch and its row. `pin` puts batches
    into pinned memory, from which a GPU copies asynchronously. A context manager; the processes
    stay from epoch to epoch.
    """

    def __init__(
        self, patches: Patches, config: AugmentConfig, seed: int, workers: int, pin: bool = False
    ) -> None:
        source = _Source(patches, config, seed)
        self._pin = pin
        self._depth = AHEAD * max(workers, 1)
        self._pool: Executor
        self._prepare: Callable[[Item], Prepared]
        if workers:
            # The standard library's executor reports a process that died. A torch DataLoader may
            # wait forever on a lock that the dead process held.
            self._pool = ProcessPoolExecutor(workers, _context(), _start, (source,))
            self._prepare = _prepare
        else:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="slidescan-loader")
            self._prepare = source.prepare

    def load(self, epoch: int, index: Sequence[Rows]) -> Iterator[Batch]:
        """Yield the augmented patches at each of `index`, in that order.

        Raises:
            SlidescanError: a worker process died.
        """
        items = [(epoch, rows) for rows in index]
        try:
            with closing(prefetch(self._pool, self._prepare, items, self._depth)) as ready:
                for (_, rows), (pixels, labels) in ready:
                    yield Batch(self._placed(pixels), self._placed(labels), rows)
        except BrokenProcessPool as error:
            raise SlidescanError(
                "a process that prepares batches died; give the machine more memory or set "
                "workers=0"
            ) from error

    def _placed(self, values: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor.pin_memory() if self._pin else tensor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


class _Source:
    """(epoch, rows) to pixels and labels."""

    def __init__(self, patches: Patches, config: AugmentConfig, seed: int) -> None:
        self._patches, self._seed = patches, seed
        self._augment = Augment(config)

    def prepare(self, item: Item) -> Prepared:
        epoch, rows = item
        pixels = self._patches.pixels(rows)
        for i, row in enumerate(rows):
            # The spawn key makes these generators differ from the one of the epoch's order.
            seeds = np.random.SeedSequence((self._seed, epoch), spawn_key=(int(row),))
            pixels[i] = self._augment(pixels[i], np.random.default_rng(seeds))
        return pixels, self._patches.labels[rows]


_source: _Source
"""The source of a worker process."""


def _start(source: _Source) -> None:
    global _source
    obey_parent()
    torch.set_num_threads(1)  # as many workers as cores
    _source = source


def _prepare(item: Item) -> Prepared:
    return _source.prepare(item)


def _context() -> multiprocessing.context.BaseContext:
    """Return how workers start: never by a fork of this process, which has threads."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once for all workers
    with sigint_blocked():
        forkserver.ensure_running()
    return context
