"""Describe this machine and test an engine on it: speed and exactness."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray
from torch import cuda

from slidescan.engines.backend import TOLERANCE, Backend
from slidescan.engines.ensemble import Ensemble
from slidescan.engines.openvino.engine import processor
from slidescan.geometry import PATCH_PX, Box, Grid
from slidescan.protocols import WHITE, Engine
from slidescan.scanning.pipeline import TILE_PX, score_patches
from slidescan.slides.handle import FORMATS, library_version
from slidescan.tools.hardware import cores

Fact = tuple[str, str]

PACKAGES = ("slidescan", "torch", "openvino", "openslide-python", "zarr", "numpy")
ARITHMETIC = ("FP32", "BF16", "FP16", "INT8")
SECONDS = 3.0
"""How long the speed is measured."""
CELLS = 64
"""How many cells are compared with their patches."""


def facts() -> Iterator[Fact]:
    """Describe the machine and the libraries."""
    yield "system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    name, kinds = processor()
    used = f"{cores()} of {os.cpu_count()} cores for this process"
    yield "processor", f"{name} ({', '.join(k for k in ARITHMETIC if k in kinds)}), {used}"
    yield "memory", _memory()
    yield "GPU", "; ".join(_gpus()) or "none that torch sees"
    yield "packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    yield "OpenSlide", f"{library_version()}: {', '.join(FORMATS)}"


def _memory() -> str:
    try:
        page, pages, free = (
            os.sysconf(name) for name in ("SC_PAGE_SIZE", "SC_PHYS_PAGES", "SC_AVPHYS_PAGES")
        )
    except (AttributeError, ValueError, OSError):  # no POSIX
        return "unknown"
    return f"{page * pages / 2**30:.0f} GiB, {page * free / 2**30:.0f} GiB free"


def _gpus() -> Iterator[str]:
    for i in range(cuda.device_count()):
        found = cuda.get_device_properties(i)
        yield f"cuda:{i} {found.name}, {found.total_memory / 2**30:.0f} GiB"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


@dataclass(frozen=True, slots=True)
class Tested:
    """The result of a self-test."""

    mpx_per_s: float
    """Scan-plane megapixels per second of the network alone."""
    from_patches: float
    """Largest difference between a cell and its patch, both by the tested engine."""
    from_fp32: float
    """Largest difference between a cell and its patch by torch in fp32 on the CPU."""
    tolerance: float

    @property
    def sound(self) -> bool:
        """Whether both differences are within the tolerance; NaN is not."""
        return self.from_patches <= self.tolerance and self.from_fp32 <= self.tolerance


class Noise:
    """A scan plane of smooth noise in colours of H&E; fulfils `protocols.Reader`."""

    def __init__(self, side: int) -> None:
        rng = np.random.default_rng(0)
        coarse = rng.integers(90, 250, (-(-side // 16), -(-side // 16), 3))
        fine = rng.integers(-40, 40, (side, side, 3))
        smooth = coarse.repeat(16, axis=0).repeat(16, axis=1)[:side, :side]
        pixels = np.clip(smooth + fine, 0, 255).astype(np.uint8)
        rim = (PATCH_PX, PATCH_PX)
        self._around = np.pad(pixels, (rim, rim, (0, 0)), constant_values=WHITE)

    def read(self, box: Box) -> NDArray[np.uint8]:
        """RGB of a box, at most a patch beyond the noise; white outside."""
        return self._around[box.shift(PATCH_PX, PATCH_PX).slices]


def examine(
    ensemble: Ensemble, backend: Backend, on_step: Callable[[], object] = lambda: None
) -> Tested:
    """Score one tile repeatedly to measure the speed, and some of its cells as patches."""
    assert ensemble.stride_px
    plane, grid = Noise(TILE_PX), Grid((TILE_PX, TILE_PX), ensemble.stride_px, ensemble.field_px)
    engine = ensemble.engine(backend)
    tile = plane.read(grid.pixels(grid.cells))[None]
    scores = engine(tile)[0]
    on_step()
    speed = TILE_PX**2 / 1e6 / seconds_a_call(engine, tile)
    on_step()
    drawn = np.random.default_rng(1).integers(0, grid.shape, (CELLS, 2))
    cells = [Box(r, c, r + 1, c + 1) for r, c in drawn.tolist()]
    here = np.array([scores[cell.slices][0, 0] for cell in cells])
    reference = ensemble.engine(Backend("torch", "cpu", "fp32", backend.threads))

    def apart(other: Engine) -> float:
        alone = np.fromiter(score_patches(cells, grid, plane, other), float)
        return float(np.abs(here - alone).max())

    found = Tested(speed, apart(engine), apart(reference), TOLERANCE[backend.precision])
    on_step()
    return found


def seconds_a_call(engine: Engine, pixels: NDArray[np.uint8]) -> float:
    """The mean over `SECONDS`, at least one call."""
    started, count = time.perf_counter(), 0
    while not count or time.perf_counter() - started < SECONDS:
        engine(pixels)
        count += 1
    return (time.perf_counter() - started) / count
