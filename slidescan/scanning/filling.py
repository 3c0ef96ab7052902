"""Scan the missing blocks of a slide's map."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias

from slidescan.errors import SlideError
from slidescan.maps.store import Heatmap
from slidescan.protocols import Engine, OpenBar
from slidescan.scanning import pipeline
from slidescan.scanning.tiling import Tiling
from slidescan.slides.plane import Plane

Turns: TypeAlias = Callable[[Iterable[pipeline.Work]], Iterable[pipeline.Work]]
"""Passes a slide's work on when it is the slide's turn."""


@dataclass(frozen=True, slots=True)
class Scan:
    """A slide and its map, both open."""

    plane: Plane
    heatmap: Heatmap
    tiling: Tiling

    def missing(self) -> list[pipeline.Work]:
        """The blocks that are to be scanned, with their tiles."""
        return list(self.tiling.work(self.heatmap.missing(), self.heatmap.mask))

    def pixels(self, work: Iterable[pipeline.Work]) -> int:
        """How many scan-plane pixels of the blocks are scanned."""
        return self.tiling.pixels(work, self.heatmap.mask)

    def blocks(self) -> int:
        """How many blocks of the map hold a selected cell."""
        mask = self.heatmap.mask
        return sum(bool(mask[block.slices].any()) for block in self.heatmap.blocks())


def fill(
    scan: Scan,
    work: Sequence[pipeline.Work],
    engine: Engine,
    threads: int,
    bar: OpenBar,
    turns: Turns = iter,
) -> None:
    """Scan blocks into the map. Raises `SlidescanError`; blocks that were finished stay."""
    heatmap, mask = scan.heatmap, scan.heatmap.mask
    with bar("scanning", scan.pixels(work), "px") as progress, closing(_taken(work, turns)) as fed:
        try:
            pipeline.scan(
                fed,
                heatmap.grid,
                mask,
                scan.plane,
                engine,
                heatmap,
                threads=threads,
                on_tile=lambda tile: progress.update(scan.tiling.tile_pixels(tile, mask)),
            )
        except SlideError as error:
            total, left = scan.blocks(), sum(1 for _ in heatmap.missing())
            raise SlideError(
                f"{error}; {total - left} of {total} blocks are in {heatmap.path}; the same "
                "command with an undamaged copy resumes the scan, --damaged skip --overwrite "
                "leaves out the cells that see the damage"
            ) from error


def _taken(work: Sequence[pipeline.Work], turns: Turns) -> Generator[pipeline.Work, None, None]:
    yield from turns(work)
