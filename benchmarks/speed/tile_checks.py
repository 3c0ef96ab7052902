"""What it costs to look at the data of the tiles that a scan reads.

    python -m benchmarks.speed.tile_checks [--compression deflate] [--side 8192] [--rounds 3]

The same generated slide is scanned in turn with and without the check, in one process. Compared are
processor seconds, of OpenSlide's process as well: on a busy machine wall time says nothing.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import click
import numpy as np
import tifffile

from benchmarks.speed.contained import Silent
from benchmarks.speed.shared import texture
from benchmarks.support.processors import processor_seconds
from benchmarks.support.reports import about, tell
from slidescan.scanning.session import Options, Session
from slidescan.slides.damage import Damage

COMPRESSIONS = {
    "deflate": "adobe_deflate",
    "jpeg": "jpeg",
    "jpeg2000": "aperio_jp2000_rgb",
}


def write(path: Path, compression: str, side: int, mpp: float) -> None:
    """Tissue in tiles of 256 px, with a level of a quarter of the resolution."""
    pixels = np.tile(texture(1024, seed=1), (side // 1024, side // 1024, 1))
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for down in (1, 4):
            tiff.write(
                pixels[::down, ::down],
                tile=(256, 256),
                photometric="ycbcr" if compression == "jpeg" else "rgb",
                compression=COMPRESSIONS[compression],
                compressionargs={"level": 85} if compression == "jpeg" else None,
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
                subfiletype=int(down > 1),
                description=f"Aperio Image Library v1\r\n(256x256)|MPP = {mpp}",
                metadata=None,
            )


@click.command()
@click.option("--compression", type=click.Choice(list(COMPRESSIONS)), default="deflate")
@click.option("--side", default=8192, show_default=True, help="Side of the slide, level-0 px.")
@click.option("--mpp", default=0.972, show_default=True, help="Of level 0; 0.486 reads 4 times it.")
@click.option("--model", default="fast", show_default=True, help="fast spares most on the network.")
@click.option("--precision", default="bf16", show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="JSON file.")
def main(
    compression: str, side: int, mpp: float, model: str, precision: str, rounds: int,
    out: Path | None,
) -> None:  # fmt: skip
    """Print the medians, and the ratio to a scan without the check."""
    options = Options(models=(model,), precision=precision, tissue_mask=False)
    session = Session(options, Silent(), "benchmarks.speed.tile_checks")
    check = Damage.reason
    kinds = {"checked": check, "unchecked": lambda *_: None}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "slide.svs")
        write(path, compression, side, mpp)
        session.run(path, Path(folder, "warm.zarr"))  # builds the engine
        for number in range(rounds):
            for kind, reason in kinds.items():
                Damage.reason = reason  # type: ignore[method-assign,assignment]
                before = processor_seconds()
                session.run(path, Path(folder, f"{kind}-{number}.zarr"))
                seconds[kind].append(processor_seconds() - before)
    Damage.reason = check  # type: ignore[method-assign]
    medians = {kind: statistics.median(found) for kind, found in seconds.items()}
    result = {
        "compression": compression,
        "side_px": side,
        "mpp": mpp,
        "processor_s": {kind: round(each, 2) for kind, each in medians.items()},
        "ratio": round(medians["checked"] / medians["unchecked"], 3),
        "spread": {
            kind: [round(each, 2) for each in sorted(found)] for kind, found in seconds.items()
        },
    }
    tell(result | about(), out)


if __name__ == "__main__":
    main()
