"""Several engines as one: tiles are dealt out to GPUs, and on a GPU copied while others compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray
from torch import cuda

from slidescan.engines import Backend
from slidescan.scan import Engine, Selective

LANES = 2
"""Engines on one GPU: while one computes a tile, the next one's pixels are on their way."""


class Spread:
    """Gives each call to an engine that is free. Fulfils scan.Parallel and scan.Selective.

    Which engine scores a tile depends on the clock, so all must give the same numbers.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.at_once = len(engines)
        """How many at a time; one more waits until an engine is free."""
        self._free: SimpleQueue[Engine] = SimpleQueue()
        for engine in engines:
            self._free.put(engine)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """P(tumour) of RGB (N, H, W, 3) uint8: (N, h, w). Safe from several threads."""
        with self._borrowed() as engine:
            return engine(pixels)

    def select(self, pixels: NDArray[np.uint8], wanted: NDArray[np.bool_]) -> NDArray[np.float32]:
        """As a call where `wanted` (N, h, w); anything elsewhere."""
        with self._borrowed() as engine:
            if isinstance(engine, Selective):
                return engine.select(pixels, wanted)
            return engine(pixels)

    @contextmanager
    def _borrowed(self) -> Iterator[Engine]:
        engine = self._free.get()
        try:
            yield engine
        finally:
            self._free.put(engine)


def make_engine(make: Callable[[Backend], Engine], backend: Backend) -> Engine:
    """What `make` gives for a CPU; for GPUs a `Spread` over `LANES` of what it gives for each.

    `cuda` is every GPU that torch sees (CUDA_VISIBLE_DEVICES), `cuda:1` that one alone.
    """
    if backend.device == "cpu":
        return make(backend)
    # All GPUs before a second engine on any: the first tiles go to different ones.
    devices = _gpus(backend.device) * LANES
    return Spread([make(replace(backend, device=device)) for device in devices])


def _gpus(device: str) -> list[str]:
    if device != "cuda":
        return [device]
    return [f"cuda:{i}" for i in range(cuda.device_count())]
