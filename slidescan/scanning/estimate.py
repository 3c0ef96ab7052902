"""What a scan would take: tissue, pixels, time and space of a slide, without writing anything."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import SlideError
from slidescan.geometry import Box, Grid
from slidescan.maps import layout
from slidescan.scanning import pipeline
from slidescan.scanning.enrolment import Task
from slidescan.scanning.session import Session
from slidescan.slides.plane import Plane
from slidescan.slides.slide import Slide
from slidescan.tools.urls import Place

MEASURED_TILES = 8
"""Tiles by which the speed is measured; each is a megapixel at most."""

CELL_BYTES = 4 * 4 / 3
"""float32, and the coarser levels. Compression saves some of it, so this is the most."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the scan of a slide would take."""

    state: str
    """done, or what the manifest says"""
    tissue_mm2: float | None = None
    """None where tissue is not looked for"""
    megapixels: float = 0.0
    """scan-plane pixels that the network gets"""
    seconds: float = 0.0
    most_mb: float = 0.0

    def figures(self) -> dict[str, float | None]:
        """All but the state."""
        return {key: value for key, value in asdict(self).items() if key != "state"}


class Estimator:
    """Plans slides; measures the speed on the first one that has tissue."""

    def __init__(self, session: Session, folder: Place) -> None:
        self.session = session
        self.folder = folder
        self._px_a_second: float | None = None

    def plan(self, task: Task) -> Plan:
        """Open a slide, find its tissue and estimate the rest. Raises SlidescanError."""
        entry, started = task.entry, time.perf_counter()
        if entry.problem or task.owner:
            raise SlideError(
                f"{entry.slide}: {entry.problem or f'its map would be that of {task.owner}'}"
            )
        session = self.session.beside(self.session.reporter, iter, entry.mpp)
        if session.is_finished(entry.slide, self.folder / task.map_name):
            return Plan("done")
        with (
            session.stage.local(entry.slide, session.reporter.bar) as path,
            Slide.open(path, session.options.mpp) as slide,
        ):
            plane = slide.plane(session.ensemble.mpp)
            grid = session.grid(plane)
            selected = session.selector().select(plane, grid)
            mask = selected.mask
            prepared_s = time.perf_counter() - started
            work = list(session.tiling.work(grid.cells.split(layout.BLOCK_CELLS), mask))
            if self._px_a_second is None and work:
                self._px_a_second = self._measure(session, work, grid, mask, plane)
        pixels = session.tiling.pixels(work, mask)
        return Plan(
            state="waiting" if task.state == "done" else task.state,
            tissue_mm2=selected.tissue_mm2,
            megapixels=round(pixels / 1e6, 1),
            seconds=round(prepared_s + pixels / (self._px_a_second or 1.0), 1),
            most_mb=round(int(np.count_nonzero(mask)) * CELL_BYTES / 1e6, 2),
        )

    def _measure(
        self,
        session: Session,
        work: list[pipeline.Work],
        grid: Grid,
        mask: NDArray[np.bool_],
        plane: Plane,
    ) -> float:
        """Read and score some tiles; returns scan-plane pixels a second."""
        sample = [pipeline.Work(item.block, (tile,)) for item in work for tile in item.tiles]
        engine, threads = session.engine, session.backend.threads
        warm = sample[:1]  # kernels are compiled at the first call
        for chosen in (warm, sample[-MEASURED_TILES:]):
            started = time.perf_counter()
            pipeline.scan(chosen, grid, mask, plane, engine, _Nowhere(), threads=threads)
            seconds = time.perf_counter() - started
        return session.tiling.pixels(chosen, mask) / seconds


class _Nowhere:
    """Drops blocks; fulfils `protocols.Sink`."""

    def write(self, block: Box, values: NDArray[np.float32], gaps: NDArray[np.bool_]) -> None: ...
