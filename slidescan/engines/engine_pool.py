"""Several engines as one: tiles are dealt out to GPUs, or to shares of a CPU's threads."""

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
"""Engines on one GPU: while one computes a tile, the next one's pixels are on their way."""

CPU_LANES = 4
"""Most engines on a CPU, which share its threads. Those of one engine wait for each other at every
layer, longest where a core is busy reading; those of two do not. Each has the features of a tile,
170 MB of them in the default model."""


class EnginePool:
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


def make_engine(
    make: Callable[[Backend], Engine], backend: Backend, cpu_lanes: int = CPU_LANES
) -> Engine:
    """What `make` gives, several times: for OpenVINO, at most `cpu_lanes` that share the threads,
    and on GPUs `LANES` for each.

    `cuda` is every GPU that torch sees (CUDA_VISIBLE_DEVICES), `cuda:1` that one alone. torch has
    one number of threads for a whole process, so on a CPU it is one engine.
    """
    if backend.device == "cpu":
        lanes = min(backend.threads, cpu_lanes) if backend.engine == "openvino" else 1
        backends = [replace(backend, threads=n) for n in _shares(backend.threads, lanes)]
    else:
        # All GPUs before a second engine on any: the first tiles go to different ones.
        backends = [replace(backend, device=d) for d in _gpus(backend.device) * LANES]
    engines = [make(each) for each in backends]
    return EnginePool(engines) if len(engines) > 1 else engines[0]


def _shares(threads: int, count: int) -> list[int]:
    """`threads` in `count` parts, as equal as can be.

    >>> _shares(16, 3)
    [6, 5, 5]
    """
    return [(threads + i) // count for i in reversed(range(count))]


def _gpus(device: str) -> list[str]:
    if device != "cuda":
        return [device]
    return [f"cuda:{i}" for i in range(hardware.cuda_devices())]
