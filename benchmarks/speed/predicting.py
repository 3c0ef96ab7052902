"""Speed of `slidescan predict` on a folder of patches, and whether its memory grows with it.

    python -m benchmarks.speed.predicting [--patches 4096] [--data FOLDER] [--tta d4] \
        [--engine torch]

Without --data patches of noise are written as Kaggle's are: uncompressed TIFF. The command runs in
a process of its own, on a quarter of the patches and on all. The difference of the two times
excludes starting and compiling; the two peaks of memory should be equal.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from PIL import Image

from benchmarks.support.reports import about, tell
from slidescan.geometry import PATCH_PX
from slidescan.tools.hardware import cores

KAGGLE = 57_458
"""Patches in the competition's test folder."""


def generate(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (PATCH_PX, PATCH_PX, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06}.tif")


def predict(files: list[Path], folder: Path, flags: list[str]) -> tuple[float, float]:
    """Run the command; its seconds and its peak memory in MB."""
    paths, out = folder / "list.txt", folder / "table.csv"
    paths.write_text("".join(f"{file}\n" for file in files))
    arguments = ["predict", "--list", paths, "--out", out, *flags]
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "slidescan", *map(str, arguments)], stdout=sys.stderr
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException("slidescan predict failed")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Folder of patches. [default: noise]")
@click.option("--patches", "count", type=click.IntRange(1024), default=4096, show_default=True)
@click.option("--model", "models", multiple=True, default=("default",), show_default=True)
@click.option("--tta", type=click.Choice(["d4"]))
@click.option("--engine", type=click.Choice(["openvino", "torch"]), default="openvino")
@click.option("--device", default="cpu", show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16", "int8"]), default="fp32")
@click.option("--threads", default=cores(), show_default=True)
def main(
    data: Path | None, count: int, models: tuple[str, ...], tta: str | None, **how: str | int
) -> None:
    """Measure speed and memory; print JSON."""
    flags = [word for model in models for word in ("--model", model)]
    flags += [word for name, value in how.items() for word in (f"--{name}", str(value))]
    flags += ["--tta", tta] if tta else []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if data is None:
            data = folder / "patches"
            data.mkdir()
            generate(data, count)
        files = sorted(file for file in data.iterdir() if file.suffix in (".tif", ".png"))[:count]
        few = files[: len(files) // 4]
        few_s, few_mb = predict(few, folder, flags)
        all_s, all_mb = predict(files, folder, flags)
    rate = (len(files) - len(few)) / (all_s - few_s)
    result = {
        "patches": len(files),
        "seconds": round(all_s, 1),
        "patches_per_s": round(rate, 1),
        "minutes_for_kaggles_test": round((all_s + (KAGGLE - len(files)) / rate) / 60, 1),
        "peak_mb": {len(few): round(few_mb), len(files): round(all_mb)},
        "models": models,
        "tta": tta,
        **how,
        **about(),
    }
    tell(result)


if __name__ == "__main__":
    main()
