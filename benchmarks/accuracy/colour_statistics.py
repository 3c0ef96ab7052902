"""Statistics of patches' colours in CIELAB: the settings of the augmentation `randstainna`.

    python -m benchmarks.accuracy.colour_statistics --data DIR

Prints JSON with the settings. Needs the extra `train`.
"""

from __future__ import annotations

from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.support.reports import about, tell
from slidescan.commands.terminal import plain_bar
from slidescan.errors import SlidescanError
from slidescan.patches.labelled import Patches, load_data


def statistics(pixels: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of L, a and b over one patch (96, 96, 3)."""
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    mean, deviation = cv2.meanStdDev(lab)
    return mean.ravel().tolist(), deviation.ravel().tolist()


def settings(patches: Patches) -> dict[str, list[float]]:
    """The settings of `augment.randstainna`, by their keys."""
    rows = plain_bar(range(len(patches)), desc="colours", unit="patch")
    found = np.array([statistics(patches.pixels(row)) for row in rows])  # (N, 2, 3)
    means, spreads = found.mean(axis=0).round(1).tolist()
    means_sd, spreads_sd = found.std(axis=0).round(1).tolist()
    return {
        "means": means,
        "means_sd": means_sd,
        "spreads": spreads,
        "spreads_sd": spreads_sd,
    }


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Labelled patches, as for slidescan train; its training patches are measured.",
)
@click.option("--ids", type=click.Path(path_type=Path), help="File with the ids to use.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder for packed patches.")
def main(data: Path, ids: Path | None, cache: Path | None) -> None:
    """Print the mean and the standard deviation, over training patches, of their statistics."""
    try:
        training = load_data(data, only=ids, cache=cache, progress=plain_bar).training
    except SlidescanError as error:
        raise click.ClickException(str(error)) from error
    tell({"randstainna": settings(training), "patches": len(training), **about()})


if __name__ == "__main__":
    main()
