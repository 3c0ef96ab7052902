"""Speed of training steps and the share of time waiting for patches, with and without augmentation.

    python -m benchmarks.speed.training [--data DIR] [--config configs/quick.yaml] [--device cuda]

Without --data the patches are noise; their content does not change the time. Each side takes steps
for --seconds after a few that are not counted. Needs the extra `train`.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch
from slidescan_train.loop.devices import make_fabric, worker_count
from slidescan_train.loop.learner import Learner
from slidescan_train.loop.loader import Loader, epoch_plan
from slidescan_train.recipe.config import TrainConfig, load_config

from benchmarks.speed.loading import OFF, noise
from benchmarks.support.reports import about, tell
from slidescan.patches.labelled import load_data
from slidescan.patches.labelled.patches import Patches

UNCOUNTED = 5
"""Steps before the clock starts, in which buffers are allocated and kernels chosen."""


def measure(config: TrainConfig, patches: Patches, device: str, seconds: float) -> dict[str, float]:
    """Measure images a second, and the share of time in which the next batch was not ready."""
    fabric = make_fabric(config, device)
    learner = Learner(config, fabric)
    learner.network.train()
    waited, taken, images, number = 0.0, 0.0, 0, 0
    workers, pin = worker_count(config, fabric), fabric.device.type == "cuda"
    with Loader(patches, config.augment, config.seed, workers, pin) as loader:
        while taken < seconds:
            plan = epoch_plan(len(patches), config, number)
            batches = loader.load(number, [rows for parts in plan for rows in parts])
            for parts in plan:
                started = time.perf_counter()
                outcome = learner.step(batches, parts, 1e-4, (0, number))
                number += 1
                if number > UNCOUNTED:
                    taken += time.perf_counter() - started
                    waited += outcome.waited_s
                    images += sum(map(len, parts))
                if taken >= seconds:
                    break
    return {"images_per_s": round(images / taken, 1), "waiting": round(waited / taken, 4)}


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Patches. [default: noise]")
@click.option("--config", type=click.Path(path_type=Path), help="Settings. [default: pcam.yaml's]")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--seconds", default=30.0, show_default=True, help="Duration of each side.")
@click.option(
    "--patches", "count", default=8192, show_default=True, help="Number of patches of noise."
)
def main(
    data: Path | None,
    config: Path | None,
    changes: tuple[str, ...],
    device: str,
    seconds: float,
    count: int,
) -> None:
    """Print one line of JSON with both sides and their ratio."""
    settings = load_config(config, changes)
    patches = load_data(data).training if data else noise(count)
    plain = TrainConfig.model_validate({**settings.model_dump(), "augment": OFF})
    augmented = measure(settings, patches, device, seconds)
    unaugmented = measure(plain, patches, device, seconds)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() and device != "cpu" else "cpu"
    result = {
        "config": config.stem if config else "pcam",
        "changes": list(changes),
        "batch": settings.batch,
        "micro_batch": settings.micro_batch,
        "precision": settings.precision,
        "augmented": augmented,
        "unaugmented": unaugmented,
        "ratio": round(augmented["images_per_s"] / unaugmented["images_per_s"], 3),
        "device": where,
        **about(),
    }
    tell(result)


if __name__ == "__main__":
    main()
