"""Speed of preparing batches by workers and augmentation, and the time of each augmentation.

    python -m benchmarks.speed.loading [--data DIR] [--workers 0 --workers 2 ...] [--seconds 10]

Only the loader is measured; nothing is trained. Without --data the patches are noise. "seed" are
the augmentations of configs/seed.yaml. Needs the extra `train`.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np
from slidescan_train.augmentation import transforms
from slidescan_train.loop.loader import Loader, micro_batches, steps
from slidescan_train.recipe.augment_config import AugmentConfig
from slidescan_train.recipe.config import load_config

from benchmarks.support.reports import about, tell
from slidescan.geometry import PATCH_PX
from slidescan.patches.labelled import load_data
from slidescan.patches.labelled.patches import Patches

BATCH = 64
UNCOUNTED = 5
"""Batches before the clock starts, in which workers start."""
OFF = {**{name: {"p": 0} for name in ("d4", "stain", "hue", "crop")}, "one_of": {}}
CONFIGS = Path(__file__).parents[2] / "configs"


def noise(count: int) -> Patches:
    pixels = np.random.default_rng(0).integers(0, 256, (count, PATCH_PX, PATCH_PX, 3), np.uint8)
    labels = np.arange(count, dtype=np.int64) % 2
    return Patches.of(tuple(map(str, range(count))), pixels, labels)


def rate(patches: Patches, config: AugmentConfig, workers: int, seconds: float) -> float:
    """Measure images a second."""
    images, number, epoch, started = 0, 0, 0, 0.0
    with Loader(patches, config, 0, workers) as loader:
        while True:
            parts = [
                part
                for rows in steps(len(patches), BATCH, 0, epoch)
                for part in micro_batches(rows, BATCH, 1)
            ]
            for batch in loader.load(epoch, parts):
                number += 1
                if number == UNCOUNTED:
                    started = time.perf_counter()
                elif number > UNCOUNTED:
                    images += len(batch.labels)
                    taken = time.perf_counter() - started
                    if taken >= seconds:
                        return round(images / taken, 1)
            epoch += 1


def costs(patches: Patches, config: AugmentConfig, draws: int = 300) -> dict[str, float]:
    """Measure microseconds a patch of each augmentation, always applied, in one thread."""
    found: dict[str, float] = {}
    rng = np.random.default_rng(0)
    pixels = patches.pixels(rng.integers(0, len(patches), draws))
    for name, transform in transforms(config).items():
        transform(pixels[0], rng)
        started = time.perf_counter()
        for patch in pixels:
            transform(patch, rng)
        found[name] = round((time.perf_counter() - started) / draws * 1e6, 1)
    return found


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Patches. [default: noise]")
@click.option("--workers", type=int, multiple=True, default=(0, 1, 2), show_default=True)
@click.option("--seconds", default=10.0, show_default=True, help="Duration of each measurement.")
@click.option(
    "--patches", "count", default=8192, show_default=True, help="Number of patches of noise."
)
def main(data: Path | None, workers: tuple[int, ...], seconds: float, count: int) -> None:
    """Measure the loader; print one line of JSON."""
    patches = load_data(data).training if data else noise(count)
    default = load_config(None).augment
    configs = {
        "default": default,
        "seed": load_config(CONFIGS / "seed.yaml").augment,
        "off": AugmentConfig.model_validate(OFF),
    }
    result = {
        "images_per_s": {
            name: {n: rate(patches, config, n, seconds) for n in workers}
            for name, config in configs.items()
        },
        "us_per_patch": costs(patches, default),
        "batch": BATCH,
        **about(),
    }
    tell(result)


if __name__ == "__main__":
    main()
