"""Speed of training steps and the share of time waiting for patches, with and without augmentation.

    python -m benchmarks.speed.training [--data DIR] [--config configs/quick.yaml] [--device cuda]
        [--teacher MODEL]... [--threads N]

Without --data the patches are noise; their content does not change the time. Each side takes steps
for --seconds after a few that are not counted. With bf16 on a CPU a further side has its depthwise
convolutions in bf16 as well, which training keeps in float32. With teachers another side takes
unaugmented steps without them, and the forward pass of each is timed in torch and as training runs
it. Needs the extra `train`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import click
import torch
from lightning_fabric import Fabric
from slidescan_train.loop import learner as learning
from slidescan_train.loop.devices import make_fabric, precision_of, worker_count
from slidescan_train.loop.learner import Learner, to_input, tumour
from slidescan_train.loop.loader import Loader, epoch_plan
from slidescan_train.recipe.config import TrainConfig, load_config
from slidescan_train.teachers.teacher import Teacher, load_teachers

from benchmarks.speed.loading import OFF, noise
from benchmarks.support.reports import about, tell
from slidescan.models.model import load
from slidescan.patches.labelled import load_data
from slidescan.patches.labelled.patches import Patches

UNCOUNTED = 5
"""Steps before the clock starts, in which buffers are allocated and kernels chosen."""


def measure(
    config: TrainConfig,
    patches: Patches,
    fabric: Fabric,
    seconds: float,
    teachers: Sequence[Teacher] = (),
) -> dict[str, float]:
    """Measure images a second, and the share of time in which the next batch was not ready."""
    learner = Learner(config, fabric, teachers)
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


def passes(
    source: str, precision: str, count: int, seconds: float, device: torch.device
) -> dict[str, float]:
    """Time a teacher's forward pass of `count` patches, in turn in torch and as training runs it.

    Milliseconds of the fastest pass: other work on the machine only adds to them.
    """
    network = load(source).network.to(device)
    (teacher,) = load_teachers([source], device, precision)
    forms = {"torch": Teacher(teacher.record, network), "training": teacher}
    x = to_input(noise(count).pixels(slice(count)), device)
    answers = {name: tumour(form(x)) for name, form in forms.items()}
    fastest = dict.fromkeys(forms, math.inf)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for name, form in forms.items():
            started = time.perf_counter()
            form(x).sum().item()  # waits for a GPU
            fastest[name] = min(fastest[name], time.perf_counter() - started)
    apart = (answers["torch"] - answers["training"]).abs().max()
    return {
        **{f"{name}_ms": round(1e3 * taken, 1) for name, taken in fastest.items()},
        "ratio": round(fastest["torch"] / fastest["training"], 2),
        "apart": float(f"{float(apart):.1e}"),
    }


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Patches. [default: noise]")
@click.option("--config", type=click.Path(path_type=Path), help="Settings. [default: pcam.yaml's]")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--threads", type=click.IntRange(1), help="[default: all]")
@click.option("--teacher", "sources", multiple=True, help="A slidescan model; may be repeated.")
@click.option("--seconds", default=30.0, show_default=True, help="Duration of each side.")
@click.option(
    "--patches", "count", default=8192, show_default=True, help="Number of patches of noise."
)
def main(
    data: Path | None,
    config: Path | None,
    changes: tuple[str, ...],
    device: str,
    threads: int | None,
    sources: tuple[str, ...],
    seconds: float,
    count: int,
) -> None:
    """Print one line of JSON with the sides and their ratios."""
    settings = load_config(config, changes)
    patches = load_data(data).training if data else noise(count)
    plain = TrainConfig.model_validate({**settings.model_dump(), "augment": OFF})
    fabric = make_fabric(settings, device, threads)
    precision = precision_of(fabric)
    teachers = load_teachers(sources, fabric.device, precision)
    augmented = measure(settings, patches, fabric, seconds, teachers)
    unaugmented = measure(plain, patches, fabric, seconds, teachers)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() and device != "cpu" else "cpu"
    result = {
        "config": config.stem if config else "pcam",
        "changes": list(changes),
        "batch": settings.batch,
        "micro_batch": settings.micro_batch,
        "precision": precision,
        "augmented": augmented,
        "unaugmented": unaugmented,
        "ratio": round(augmented["images_per_s"] / unaugmented["images_per_s"], 3),
        "device": where,
        **about(),
    }
    if precision == "bf16-mixed" and fabric.device.type == "cpu":
        with patch.object(learning, "keep_float32"):
            other = measure(plain, patches, fabric, seconds, teachers)
        result["unaugmented_depthwise_bf16"] = other
        gained = unaugmented["images_per_s"] / other["images_per_s"]
        result["ratio_to_depthwise_bf16"] = round(gained, 3)
    if teachers:
        # Unaugmented, as far shifts need a teacher.
        untaught = measure(plain, patches, fabric, seconds)
        taught = unaugmented["images_per_s"] / untaught["images_per_s"]
        size = min(settings.micro_batch, settings.batch)
        result["unaugmented_without_teachers"] = untaught
        result["ratio_with_teachers"] = round(taught, 3)
        result["teachers"] = {
            Path(source).name: passes(source, precision, size, seconds, fabric.device)
            for source in sources
        }
    tell(result)


if __name__ == "__main__":
    main()
