"""Time from the start to the first batch of patches, without and with a packed cache.

    python -m benchmarks.speed.starting [--data DIR] [--patches 220025]

Without --data a folder in Kaggle's layout is written first, with as many patches of noise as
PatchCamelyon has; this takes 12 GB of disk. For root the page cache is dropped before each start;
otherwise files may be in memory already. Needs the extra `train`.
"""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.support.reports import about, tell
from slidescan.geometry import PATCH_PX
from slidescan.patches.labelled import load_data


def write_kaggle(folder: Path, count: int) -> Path:
    """Write `count` patches of noise, each as a TIFF named by the SHA-1 of its pixels."""
    (folder / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "train_labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "label"))
        for number in tqdm(range(count), desc="writing patches", disable=None):
            pixels = rng.integers(0, 256, (PATCH_PX, PATCH_PX, 3), np.uint8)
            name = hashlib.sha1(pixels.tobytes()).hexdigest()
            Image.fromarray(pixels).save(folder / "train" / f"{name}.tif")
            writer.writerow((name, number % 2))
    return folder


def start(data: Path, cache: Path) -> tuple[float, int, bool]:
    """Load the data; seconds to the first 64 patches, how many there are, if the start was cold."""
    os.sync()
    drop = Path("/proc/sys/vm/drop_caches")
    cold = os.access(drop, os.W_OK)
    if cold:
        subprocess.run(["sh", "-c", f"echo 3 > {drop}"], check=True)
    started = time.perf_counter()
    loaded = load_data(data, cache=cache)
    loaded.training.pixels(slice(64))
    return time.perf_counter() - started, len(loaded.training) + len(loaded.validation), cold


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Patches. [default: noise]")
@click.option(
    "--patches", "count", default=220_025, show_default=True, help="Number of patches of noise."
)
@click.option(
    "--scratch", type=click.Path(path_type=Path), help="Folder for the patches and the cache."
)
def main(data: Path | None, count: int, scratch: Path | None) -> None:
    """Print one line of JSON with both starts and their ratio."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        data = data or write_kaggle(Path(folder, "pcam"), count)
        first, found, cold = start(data, Path(folder, "cache"))
        second, _, _ = start(data, Path(folder, "cache"))
    result = {
        "patches": found,
        "page_cache_dropped": cold,
        "first_start_s": round(first, 1),
        "second_start_s": round(second, 1),
        "ratio": round(first / second, 1),
        **about(),
    }
    tell(result)


if __name__ == "__main__":
    main()
