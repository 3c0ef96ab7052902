"""One training run: what it is asked for, what it starts from, and its way to the end."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from tqdm import tqdm

from slidescan.errors import ConfigError, WriteError
from slidescan.models import model
from slidescan.patches.labelled import Data, load_data
from slidescan.patches.labelled.splits import ids_sha256
from slidescan.tools.atomic_files import check_folder, lock, release, writing
from slidescan.tools.settings_diff import differences
from slidescan_train.loop.history import Epoch, Step
from slidescan_train.loop.learner import Learner
from slidescan_train.loop.training import Progress, make_fabric, train
from slidescan_train.recipe.config import TrainConfig
from slidescan_train.runs import checkpoint
from slidescan_train.runs.recorder import CHECKPOINT, Recorder, show
from slidescan_train.teachers.lineage import Start, doubt
from slidescan_train.teachers.published import is_published, load_published
from slidescan_train.teachers.teacher import Teacher, load_teacher
from slidescan_train.teachers.widening import may_widen, widened

Warn = Callable[[str], None]

FREE = ("workers", "checkpoint_minutes")
"""Settings that change nothing of what comes out, so that a resumed run may have others."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a run is asked for, beside its settings."""

    data: Path
    out: Path
    ids: Path | None = None
    """Takes these patches alone, see `load_data`."""
    groups: Path | None = None
    cache: Path | None = None
    skip_bad: bool = False
    teacher: str | None = None
    start: str | None = None
    """A model, or published weights, that it starts from."""
    resume: bool = False
    device: str = "auto"
    threads: int | None = None


def run(
    config: TrainConfig,
    request: Request,
    warn: Warn = lambda text: warnings.warn(text, stacklevel=3),
) -> list[Epoch]:
    """Train, and return the history. docs/training.md tells what is in `request.out` afterwards.

    A folder with another run is refused; `resume` goes on with it, or begins where there is none.
    `warn` is told where a teacher or a start may know the validation patches.
    """
    fabric = make_fabric(config, request.device, request.threads)
    if fabric.global_rank:
        return _train(config, request, fabric, lambda _: None)
    with writing(request.out):
        request.out.parent.mkdir(exist_ok=True)
    check_folder(request.out)
    held = lock(request.out)
    try:
        return _train(config, request, fabric, warn)
    finally:
        release(held)


def _train(config: TrainConfig, request: Request, fabric: Fabric, warn: Warn) -> list[Epoch]:
    there = _checkpoint(request)
    teacher = load_teacher(request.teacher, fabric.device) if request.teacher else None
    start = _start(request.start, config) if request.start else None
    # It refuses a plan or settings that do not fit: now, not after minutes of reading.
    learner = Learner(config, fabric, teacher, start.network if start else None)
    first = fabric.global_rank == 0
    if first:
        with writing(request.out):
            request.out.mkdir(exist_ok=True)
    # The others read the cache that the first has built.
    with fabric.rank_zero_first():
        data = _load(config, request, first)
    _check_unseen(data, teacher, start, warn)
    about = {
        "config": config.model_dump(mode="json"),
        "data": data.fingerprint,
        "teacher": teacher.record.sha256 if teacher else None,
        "start": model.weights_sha256(start.network) if start else None,
    }
    progress = Progress()
    if there:
        tensors, numbers = there
        refuse_another(request.out, numbers["about"], about)
        learner.restore(tensors, numbers["learner"])
        progress = Progress.restored(tensors, numbers["progress"])
    if not first:
        train(learner, data.training, data.validation, progress, _Silent())
    else:
        with Recorder(learner, data, progress, request.out, about, start) as kept:
            train(learner, data.training, data.validation, progress, kept)
    return progress.history


def _checkpoint(request: Request) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """What is there to go on with. Raises `WriteError` where a run is there and none is asked."""
    path = request.out / CHECKPOINT
    if not path.exists():
        return None
    if not request.resume:
        raise WriteError(
            f"{request.out}: holds another run; --resume goes on with it, or choose another --out"
        )
    return checkpoint.load(path)


def refuse_another(out: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise `ConfigError` that lists the settings in which a run differs from its checkpoint."""
    lines = [d for d in differences(there, here) if not d.startswith(_free())]
    if lines:
        raise ConfigError(
            f"{out}: was begun with other settings: {'; '.join(lines)}; take those, or another "
            "--out"
        )


def _free() -> tuple[str, ...]:
    return tuple(f"config.{key}:" for key in FREE)


def _check_unseen(data: Data, teacher: Teacher | None, start: Start | None, warn: Warn) -> None:
    """Say it where the validation patches may be known already."""
    held_out = ids_sha256(data.validation.ids)
    for option, source in ("--teacher", teacher), ("--init", start):
        if source and (why := doubt(option, source.record, held_out)):
            warn(why)


def _start(source: str, config: TrainConfig) -> Start:
    if is_published(source):
        return load_published(source, config.plan)
    start = model.load(source)
    lines = differences(
        start.card.plan.model_dump(mode="json"), config.plan.model_dump(mode="json")
    )
    if lines and not may_widen(start.card.plan, config.plan):
        raise ConfigError(
            f"--init {source}: has another plan: {'; '.join(lines)}; take a --config with its "
            "plan, or with more filters in the same layers and cells"
        )
    network = widened(start.network, config.plan, config.seed) if lines else start.network
    return Start(network, start.ancestor)


def _load(config: TrainConfig, request: Request, first: bool) -> Data:
    return load_data(
        request.data,
        validation=config.validation,
        groups=request.groups,
        only=request.ids,
        cache=request.cache,
        skip_bad=request.skip_bad,
        report=request.out / "defects.csv" if first else None,
        progress=show if first else None,
        say=tqdm.write if first else None,
    )


class _Silent:
    """The Keeper of the processes beside the first."""

    def on_step(self, step: Step, patches: int) -> None: ...

    def on_epoch(self, epoch: Epoch, probabilities: NDArray[np.float32]) -> None: ...

    def checkpoint(self) -> None: ...
