"""What a scan costs with OpenSlide in a process of its own, beside OpenSlide in the scan's process.

    python -m benchmarks.speed.contained [--side 16384] [--model fast] [--rounds 3] [--out FILE]

The same generated slide (JPEG, 40x) is scanned in turn with both, and once with the copies of
`OpenSlide.read_region`, in one process. Compared are processor seconds, of the child as well: on a
busy machine wall time says nothing. The maps must be equal.
"""

from __future__ import annotations

import ctypes
import statistics
import tempfile
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import click
import numpy as np
from openslide import OpenSlide

from benchmarks.support.processors import processor_seconds
from benchmarks.support.pyramids import write_pyramid
from benchmarks.support.reports import about, tell
from slidescan.maps.store import Heatmap
from slidescan.scanning.session import Options, Session
from slidescan.slides import contained, slide
from slidescan.slides.handle import Handle, Pixels, Region, open_handle
from slidescan.slides.openslide_process import read_into

CELL_PX = 4096


class InProcess:
    """A `Handle` of OpenSlide in this process."""

    def __init__(self, path: Path) -> None:
        self._slide = OpenSlide(path)
        self.properties = dict(self._slide.properties)
        self.level_dimensions = self._slide.level_dimensions
        self.level_downsamples = self._slide.level_downsamples

    def profile_shift(self) -> float | None:
        return None

    def read(self, level: int, regions: Sequence[Region]) -> Generator[Pixels, None, None]:
        for x, y, width, height in regions:
            pixels = (ctypes.c_uint32 * (width * height))()
            read_into(self._slide, pixels, level, (x, y, width, height))
            yield np.frombuffer(pixels, np.uint8).reshape(height, width, 4)

    def close(self) -> None:
        self._slide.close()


class WithCopies(InProcess):
    """The same through a Pillow image, as openslide-python gives it."""

    def read(self, level: int, regions: Sequence[Region]) -> Generator[Pixels, None, None]:
        for x, y, width, height in regions:
            rgba = np.asarray(self._slide.read_region((x, y), level, (width, height)))
            yield np.ascontiguousarray(rgba[..., [2, 1, 0, 3]])


KINDS: dict[str, Callable[[Path], Handle]] = {
    "contained": open_handle,
    "in_process": InProcess,
    "in_process_with_copies": WithCopies,
}


def start_seconds() -> float:
    """Processor seconds that the start of a child takes, until it answers."""
    contained.PROCESSES.close()
    before = processor_seconds()
    contained.library_version()
    return processor_seconds() - before


class Silent:
    """A reporter."""

    def bar(self, what: str, total: int, unit: str) -> object:
        from slidescan.protocols import no_bar

        return no_bar(what, total, unit)

    def say(self, line: str) -> None: ...

    def warn(self, line: str) -> None: ...


def reading(opening: Callable[[Path], Handle], path: Path) -> float:
    """Processor seconds to read all of level 2, which a scan at 0.972 um/px reads."""
    slide.open_handle = opening
    before = processor_seconds()
    with slide.Slide.open(path) as opened:
        plane = opened.plane(0.972)
        for box in plane.bounds.split(1024):
            plane.read(box)
    return processor_seconds() - before


def scanning(opening: Callable[[Path], Handle], path: Path, session: Session, out: Path) -> float:
    """Processor seconds of a scan."""
    slide.open_handle = opening
    before = processor_seconds()
    session.run(path, out)
    return processor_seconds() - before


@click.command()
@click.option("--side", default=16384, show_default=True, help="Side of the slide, level-0 px.")
@click.option("--model", default="fast", show_default=True, help="fast spares most on the network.")
@click.option("--precision", default="bf16", show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def main(side: int, model: str, precision: str, rounds: int, out: Path | None) -> None:
    """Print medians, and ratios to OpenSlide in the scan's process."""
    options = Options(models=(model,), precision=precision, tissue_mask=False)
    session = Session(options, Silent(), "benchmarks.speed.contained")
    started = [start_seconds() for _ in range(3)]
    read: dict[str, list[float]] = {kind: [] for kind in KINDS}
    scanned: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "slide.tif")
        write_pyramid(path, np.ones((side // CELL_PX,) * 2, bool), CELL_PX)
        session.run(path, Path(folder, "warm.zarr"))  # builds the engine
        for number in range(rounds):
            values = []
            for kind, opening in KINDS.items():
                read[kind].append(reading(opening, path))
                target = Path(folder, f"{kind}-{number}.zarr")
                scanned[kind].append(scanning(opening, path, session, target))
                heatmap = Heatmap.open(target)
                values.append(heatmap.read(heatmap.grid.cells))
            for other in values[1:]:
                np.testing.assert_array_equal(values[0], other)
    result: dict[str, object] = {"side_px": side, "model": model, "precision": precision}
    result["start_of_a_process_s"] = round(statistics.median(started), 3)
    for what, seconds in (("reading", read), ("scan", scanned)):
        medians = {kind: statistics.median(found) for kind, found in seconds.items()}
        result[f"{what}_processor_s"] = {kind: round(each, 3) for kind, each in medians.items()}
        result[f"{what}_ratio"] = {
            kind: round(each / medians["in_process"], 3) for kind, each in medians.items()
        }
        result[f"{what}_spread"] = {
            kind: [round(each, 3) for each in sorted(found)] for kind, found in seconds.items()
        }
    tell(result | about(), out)


if __name__ == "__main__":
    main()
