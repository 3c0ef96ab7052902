"""Time and peak memory of a scan against the size of the slide.

    python -m benchmarks.speed.growth [--sizes 4096 --sizes 16384 ...] [--share 0.2] [--out growth]

`slidescan heatmap` scans generated pyramids at 40x: with the same tissue on larger and larger
slides, with tissue on the same share of the slide, and with none. Writes FOLDER/growth.json and
.png.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from benchmarks.support.pyramids import MPP, write_pyramid
from benchmarks.support.reports import about, keep, markdown
from slidescan.maps.store import Heatmap
from slidescan.pictures import style
from slidescan.tools.hardware import cores

CELL_PX = 4096
"""Slides are made of squares of this side, each tissue or glass."""
SIZES = (4096, 8192, 16384, 32768, 65536, 102400)


@dataclass(frozen=True, slots=True)
class Scan:
    """One slide, and the time and memory of its scan."""

    case: str
    side_px: int
    tissue_mpx: float
    """Scan-plane megapixels that were scanned, fields of view around tissue included."""
    seconds: float
    peak_mb: float


def tissue(cells: int, wanted: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Select the `wanted` squares of `cells` x `cells` that are nearest to the centre."""
    y, x = np.mgrid[:cells, :cells] - (cells - 1) / 2
    order = np.argsort(np.hypot(y, x), axis=None, kind="stable")
    mask = np.zeros(cells * cells, np.bool_)
    mask[order[:wanted]] = True
    return mask.reshape(cells, cells)


def scan(case: str, side: int, squares: int, flags: list[str]) -> Scan:
    """Generate a slide and run `slidescan heatmap` on it."""
    with tempfile.TemporaryDirectory() as folder:
        slide, out = Path(folder, "slide.tif"), Path(folder, "map.zarr")
        write_pyramid(slide, tissue(side // CELL_PX, squares), CELL_PX)
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "slidescan", "heatmap", slide, "--out", out, *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise click.ClickException(f"slidescan heatmap failed on {case}, {side} px")
        heatmap = Heatmap.open(out)
        scanned = int(heatmap.mask.sum()) * heatmap.grid.stride**2 / 1e6
    return Scan(case, side, round(scanned, 2), round(seconds, 2), round(usage.ru_maxrss / 1024))


def draw(path: Path, scans: list[Scan]) -> None:
    drawn, (time_panel, memory_panel) = style.figure(1, 2, "Scans of larger and larger slides")
    cases = list(dict.fromkeys(s.case for s in scans))
    for case, colour in zip(cases, style.COLOURS, strict=False):
        some = [s for s in scans if s.case == case]
        sides = [s.side_px / 1000 for s in some]
        time_panel.plot(sides, [s.seconds for s in some], "o-", color=colour, label=case)
        memory_panel.plot(sides, [s.peak_mb for s in some], "o-", color=colour, label=case)
    for panel, y in ((time_panel, "seconds"), (memory_panel, "peak memory, MB")):
        style.name(panel, "", "side of the slide, 1,000 px at 40x", y)
        panel.set_ylim(bottom=0)
    style.legend(time_panel)
    style.save(path, drawn)


def table(scans: list[Scan]) -> str:
    return markdown(
        ("Tissue", "Side, px", "Scanned, Mpx", "Seconds", "Peak memory, MB"),
        [
            (s.case, f"{s.side_px:,}", s.tissue_mpx, f"{s.seconds:.1f}", f"{s.peak_mb:.0f}")
            for s in scans
        ],
    )


@click.command()
@click.option("--sizes", type=int, multiple=True, default=SIZES, show_default=True)
@click.option("--share", type=click.FloatRange(0, 1), default=0.2, show_default=True)
@click.option(
    "--squares", default=4, show_default=True, help="Squares of tissue where its area is constant."
)
@click.option("--precision", default="fp32", show_default=True)
@click.option("--model", default="default", show_default=True)
@click.option("--threads", default=cores(), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("growth"), show_default=True)
def main(
    sizes: tuple[int, ...],
    share: float,
    squares: int,
    precision: str,
    model: str,
    threads: int,
    out: Path,
) -> None:
    """Print a Markdown table and the growth of memory."""
    flags = ["--precision", precision, "--model", model, "--threads", str(threads)]
    scans = []
    for side in sorted(sizes):
        cells = (side // CELL_PX) ** 2
        wanted = {
            "none": 0,
            f"{squares} squares of {CELL_PX:,} px": min(squares, cells),
            f"{share:.0%} of the slide": max(1, round(share * cells)),
        }
        for case, count in wanted.items():
            scans.append(scan(case, side, count, flags))
            click.echo(f"{scans[-1]}", err=True)
    scans.sort(key=lambda s: (s.case, s.side_px))
    keep(
        out / "growth.json",
        {
            "mpp": MPP,
            "precision": precision,
            "model": model,
            "threads": threads,
            **about(),
            "scans": [asdict(s) for s in scans],
        },
    )
    draw(out / "growth.png", scans)
    click.echo(table(scans))


if __name__ == "__main__":
    main()
