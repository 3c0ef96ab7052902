"""Batches prepared ahead, by a thread or by processes; their content depends on neither."""

from __future__ import annotations

import math
import multiprocessing
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from slidescan.ahead import ahead
from slidescan.errors import ConfigError, SlidescanError
from slidescan_train.augment import Augment
from slidescan_train.config import AugmentConfig
from slidescan_train.data.patches import Patches
from slidescan_train.workers import obey_parent

Rows = NDArray[np.intp]

AHEAD = 2
"""Batches that each worker prepares ahead of the one in use."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Augmented patches, in the order they were asked for."""

    pixels: Tensor
    """(n, 96, 96, 3) uint8 RGB."""
    labels: Tensor
    """(n,) int64, 1 for tumour."""
    rows: Rows
    """(n,): which of the patches they are."""


def steps(count: int, batch: int, seed: int, epoch: int) -> list[Rows]:
    """Rows of each optimiser step of an epoch: all `count` in a new order, cut into steps.

    What is left over (fewer than `batch`) waits for another epoch's order; where `batch` is more
    than `count`, one step has all.
    """
    order = np.random.default_rng((seed, epoch)).permutation(count)
    size = min(batch, count)
    return [order[start : start + size] for start in range(0, count - size + 1, size)]


def micro_batches(rows: Rows, micro: int, processes: int) -> list[Rows]:
    """The parts of one step: near-equal, at most `micro` rows each, as many for every process.

    Raises:
        ConfigError: one would have fewer than the two patches that BatchNorm needs.
    """
    parts = processes * math.ceil(len(rows) / (micro * processes))
    if len(rows) < 2 * parts:
        raise ConfigError(
            f"a step of {len(rows)} patches in {parts} micro-batches (micro_batch {micro}, "
            f"processes {processes}) leaves one fewer than 2; raise batch or micro_batch, or take "
            "fewer processes"
        )
    return np.array_split(rows, parts)


class Loader:
    """A context manager that prepares batches ahead: by one thread of this process (`workers` 0),
    or by that many processes, which stay from epoch to epoch.

    What is drawn for a patch depends on the seed, the epoch and its row alone. `pin` puts batches
    into memory that a GPU copies from by itself.
    """

    def __init__(
        self, patches: Patches, config: AugmentConfig, seed: int, workers: int, pin: bool = False
    ) -> None:
        source = _Source(patches, config, seed)
        self._by = _Processes(source, workers, pin) if workers else _Thread(source, pin)

    def load(self, epoch: int, index: Sequence[Rows]) -> Iterator[Batch]:
        """The patches at each of `index`, augmented, in that order.

        Raises:
            SlidescanError: a worker process died.
        """
        for rows, (pixels, labels) in zip(index, self._by.load(epoch, index), strict=True):
            yield Batch(pixels, labels, rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._by.close()


Prepared = tuple[Tensor, Tensor]
Item = tuple[int, Rows]


class _Source(Dataset[Prepared]):
    """(epoch, rows) to pixels and labels."""

    def __init__(self, patches: Patches, config: AugmentConfig, seed: int) -> None:
        self._patches, self._seed = patches, seed
        self._augment = Augment(config)

    def __getitem__(self, item: Item) -> Prepared:
        epoch, rows = item
        pixels = self._patches.pixels(rows)
        for i, row in enumerate(rows):
            # A spawn key, for it keeps these apart from the generator of the epoch's order.
            seeds = np.random.SeedSequence((self._seed, epoch), spawn_key=(int(row),))
            pixels[i] = self._augment(pixels[i], np.random.default_rng(seeds))
        return torch.from_numpy(pixels), torch.from_numpy(self._patches.labels[rows])


class _Thread:
    def __init__(self, source: _Source, pin: bool) -> None:
        self._source, self._pin = source, pin
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="slidescan-loader")

    def load(self, epoch: int, index: Sequence[Rows]) -> Iterator[Prepared]:
        items = [(epoch, rows) for rows in index]
        with closing(ahead(self._pool, self._prepare, items, AHEAD)) as ready:
            for _, prepared in ready:
                yield prepared

    def _prepare(self, item: Item) -> Prepared:
        pixels, labels = self._source[item]
        return (pixels.pin_memory(), labels.pin_memory()) if self._pin else (pixels, labels)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class _Order:
    """The sampler of workers that outlive an epoch: what they are to prepare next."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)


class _Processes:
    def __init__(self, source: _Source, workers: int, pin: bool) -> None:
        self._order = _Order()
        self._iterator: Any = None
        with warnings.catch_warnings():
            # More workers than cores: that is for the user to say.
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            self._loader = DataLoader(
                source,
                batch_size=None,
                sampler=self._order,
                num_workers=workers,
                collate_fn=_as_they_are,
                pin_memory=pin,
                worker_init_fn=_start,
                multiprocessing_context=_context(),
                # Its own: else the number of workers would move torch's generator.
                generator=torch.Generator(),
                prefetch_factor=AHEAD,
                persistent_workers=True,
            )

    def load(self, epoch: int, index: Sequence[Rows]) -> Iterator[Prepared]:
        self._order.items = [(epoch, rows) for rows in index]
        try:
            self._iterator = iter(self._loader)
            yield from self._iterator
        except (RuntimeError, EOFError, ConnectionError) as error:
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            why = " ".join(str(error).split()) or type(error).__name__
            raise SlidescanError(
                f"a process that prepares batches died ({why}); give the machine more memory (in "
                "a container, /dev/shm as well) or set workers=0"
            ) from error

    def close(self) -> None:
        if self._iterator is not None:
            self._iterator._shutdown_workers()  # else they stay for as long as a traceback does
            self._iterator = None


def _as_they_are(prepared: Any) -> Any:
    return prepared


def _start(_: int) -> None:
    obey_parent()


def _context() -> multiprocessing.context.BaseContext:
    """How workers start: never by a fork of this process, whose threads would not come along."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once for all workers
    return context
