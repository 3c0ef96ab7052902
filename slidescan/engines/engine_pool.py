"""Several engines as one: tiles are distributed over GPUs, or over shares of a CPU's threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from slidescan.engines.backend import Backend
from slidescan.protocols import Engine, Selective
from slidescan.tools import hardware

LANES = 2
"""Engines on one GPU: one computes a tile while the pixels of the next are copied."""

CPU_LANES = 4
"""The most engines on a CPU; they share its threads. The threads of one engine wait for each other
at every layer, longest if a core is busy reading; those of different engines do not. Each engine
holds the features of a tile: 170 MB in the default model."""


class EnginePool:
    """Passes each call to a free engine. Fulfils `Parallel` and `Selective`.

    Which engine is free depends on timing, so all must give the same numbers.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.at_once = len(engines)
        """Calls at a time; a further call waits until an engine is free."""
        self._free: SimpleQueue[Engine] = SimpleQueue()
        for engine in engines:
            self._free.put(engine)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """P(tumour) of RGB (N, H, W, 3) uint8: (N, h, w). Safe from several threads."""
        with self._borrowed() as engine:
            return engine(pixels)

    def select(self, pixels: NDArray[np.uint8], wanted: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The values of a call where `wanted` (N, h, w) is true; elsewhere any values."""
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


def make_engine(
    make: Callable[[Backend], Engine], backend: Backend, cpu_lanes: int = CPU_LANES
) -> Engine:
    """Call `make` for each engine of a pool.

    OpenVINO gets up to `cpu_lanes` engines, which share the threads. torch gets one on a CPU, since
    its number of threads is that of the process, and `LANES` on each GPU. `cuda` is every GPU that
    torch sees (CUDA_VISIBLE_DEVICES), `cuda:1` only that one.
    """
    if backend.device == "cpu":
        lanes = min(backend.threads, cpu_lanes) if backend.engine == "openvino" else 1
        backends = [replace(backend, threads=n) for n in _shares(backend.threads, lanes)]
    else:
        # In this order the first tiles go to different GPUs.
        backends = [replace(backend, device=d) for d in _gpus(backend.device) * LANES]
    engines = [make(each) for each in backends]
    return EnginePool(engines) if len(engines) > 1 else engines[0]


def _shares(threads: int, count: int) -> list[int]:
    """Divide `threads` into `count` parts that differ by one at most.

    >>> _shares(16, 3)
    [6, 5, 5]
    """
    return [(threads + i) // count for i in reversed(range(count))]


def _gpus(device: str) -> list[str]:
    if device != "cuda":
        return [device]
    return [f"cuda:{i}" for i in range(hardware.cuda_devices())]
