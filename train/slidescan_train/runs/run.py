"""One training run: check, load the data, train, and fill the folder of the run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from pydantic import ValidationError
from tqdm import tqdm

from slidescan.commands.terminal import plain_bar
from slidescan.errors import ConfigError
from slidescan.models import model
from slidescan.patches.labelled import Data, load_data
from slidescan.tools.atomic_files import lock, release, writing
from slidescan.tools.settings_diff import differences
from slidescan_train.loop.devices import make_fabric, precision_of
from slidescan_train.loop.history import Epoch, Step
from slidescan_train.loop.learner import Learner
from slidescan_train.loop.progress import Progress
from slidescan_train.loop.training import Probabilities, train
from slidescan_train.recipe.config import TrainConfig
from slidescan_train.runs import checkpoint
from slidescan_train.runs.files import CHECKPOINT, LAST, check_out
from slidescan_train.runs.run_folder import RunFolder
from slidescan_train.teachers.lineage import HeldOut, Start, doubt
from slidescan_train.teachers.published import load_published
from slidescan_train.teachers.reshaping import reshaped
from slidescan_train.teachers.sources import is_published
from slidescan_train.teachers.teacher import Teacher, load_teachers

Warn = Callable[[str], None]

FREE = ("workers", "checkpoint_minutes")
"""Settings that do not change the result, so a resumed run may have others."""
LISTED = 8
"""Settings that differ, in an error message."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a run is asked for, beside its settings."""

    data: Sequence[Path]
    """Folders of labelled patches."""
    out: Path
    validation: Sequence[Path] = ()
    """Folders of validation sets. The first chooses the best epoch."""
    ids: Path | None = None
    """A file of the patches to use, see `load_data`."""
    groups: Path | None = None
    cache: Path | None = None
    skip_bad: bool = False
    teachers: Sequence[str] = ()
    """Models or ONNX files. The mean of their probabilities is the target."""
    start: str | None = None
    """A model or published weights to start from."""
    resume: bool = False
    device: str = "auto"
    threads: int | None = None
    command: str = "a call of slidescan_train.runs.run.run"
    """Recorded in the cards of the models."""


def run(
    config: TrainConfig,
    request: Request,
    warn: Warn = lambda text: warnings.warn(text, stacklevel=3),
) -> list[Epoch]:
    """Train, and return the history. docs/training.md describes the files in `request.out`.

    A folder with another run is refused. With `resume` that run is resumed, or begun where there is
    none. `warn` is called with one line for each doubt about the run, e.g. about its validation.

    Raises:
        SlidescanError: in one line, for anything wrong with the request, data or disk.
    """
    fabric = make_fabric(config, request.device, request.threads)
    if fabric.global_rank:
        return _train(config, request, fabric, lambda _: None)
    check_out(request.out, request.resume)
    held = lock(request.out)
    try:
        return _train(config, request, fabric, warn)
    finally:
        release(held)


def _train(config: TrainConfig, request: Request, fabric: Fabric, warn: Warn) -> list[Epoch]:
    path = request.out / CHECKPOINT
    saved = checkpoint.load(path) if path.exists() else None
    precision = precision_of(fabric)
    teachers = load_teachers(request.teachers, fabric.device, precision)
    start = _start(request.start, config) if request.start else None
    # Before the data, whose reading takes minutes: this refuses plans and settings that do not fit.
    learner = Learner(config, fabric, teachers, start.network if start else None)
    first = fabric.global_rank == 0
    if first:
        with writing(request.out):
            request.out.mkdir(exist_ok=True)
    # The first process builds the cache, the others read it.
    with fabric.rank_zero_first():
        data = _load(config, request, first)
    about = {
        "config": config.model_dump(mode="json"),
        "data": data.fingerprint,
        "teachers": [teacher.record.sha256 for teacher in teachers],
        "start": model.weights_sha256(start.network) if start else None,
    }
    sets = {each.name: each.patches for each in data.sets}
    progress, command = Progress(), request.command
    if saved:
        tensors, numbers = saved
        refuse_another(request.out, numbers["about"], about)
        learner.restore(tensors, numbers["learner"])
        progress = Progress.restored(tensors, numbers["progress"])
        # The command that began the run made its models; a resuming one names little of it.
        command = numbers.get("command", command)
    if not first:
        train(learner, data.training, sets, progress, _Silent())
        return progress.history
    _check_unseen(data, teachers, start, warn)
    if not progress.history:
        _tell_size(data, config, warn)
        if precision != config.precision:
            tqdm.write("this processor has no bf16 arithmetic: training in float32")
    with RunFolder(request.out, learner, data, progress, about, start, command) as folder:
        train(learner, data.training, sets, progress, folder)
    return progress.history


def _tell_size(data: Data, config: TrainConfig, warn: Warn) -> None:
    """Print the sizes of the data, and warn where an epoch has a single step."""
    count = len(data.training)
    steps = max(1, count // config.batch)
    if len(data.sets) > 1:
        sizes = ", ".join(f"{len(each.patches):,} {each.name}" for each in data.sets)
        tqdm.write(f"validation sets: {sizes}; {data.sets[0].name} chooses the best epoch")
    tqdm.write(
        f"{count:,} training and {len(data.validation):,} validation patches; {steps:,} "
        f"{'step' if steps == 1 else 'steps'} of {min(count, config.batch):,} patches per epoch"
    )
    if config.batch > count:
        warn(
            f"batch {config.batch:,} is larger than the {count:,} training patches, so "
            f"{config.epochs} epochs are {config.epochs} steps; for more steps: --set batch=64"
        )


def refuse_another(out: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse to resume a run with other settings than those in its checkpoint.

    Raises:
        ConfigError: with the settings that differ, those of the whole run before nested ones.
    """
    there = {**_of_one_teacher(there), "config": _completed(there["config"])}
    lines = [d for d in differences(there, here) if not d.startswith(_free())]
    if not lines:
        return
    more = ""
    if any(line.startswith("config.epochs:") for line in lines):
        # The learning rate at each step depends on the number of epochs.
        more = f"; to train for more epochs, start a new run with --init {out / LAST}"
    told = sorted(lines, key=lambda line: line.partition(":")[0].count("."))
    if len(told) > LISTED:
        told[LISTED:] = [f"and {len(told) - LISTED} more"]
    raise ConfigError(
        f"{out}: was begun with other settings: {'; '.join(told)}; use those, or another "
        f"--out{more}"
    )


def _of_one_teacher(about: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a checkpoint of an earlier version says, with its `teacher` among `teachers`."""
    if "teacher" not in about:
        return about
    rest = {key: value for key, value in about.items() if key != "teacher"}
    return rest | {"teachers": [about["teacher"]] if about["teacher"] else []}


def _completed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of a checkpoint with the defaults of those that came later."""
    try:
        return TrainConfig.model_validate(config).model_dump(mode="json")
    except ValidationError:  # a setting that is no longer known is told as a difference
        return config


def _free() -> tuple[str, ...]:
    return tuple(f"config.{key}:" for key in FREE)


def _check_unseen(data: Data, teachers: Sequence[Teacher], start: Start | None, warn: Warn) -> None:
    """Warn where a model that this run builds on may have been trained on validation patches."""
    built_on = [
        *(("--teacher", teacher.record) for teacher in teachers),
        *([("--init", start.record)] if start else []),
    ]
    held_out = HeldOut.of(data)
    doubts = (doubt(option, record, each) for option, record in built_on for each in held_out)
    for why in dict.fromkeys(filter(None, doubts)):
        warn(why)


def _start(source: str, config: TrainConfig) -> Start:
    if is_published(source):
        return load_published(source, config.plan)
    start = model.load(source)
    network = reshaped(start.network, config.plan, config.seed)
    if network is None:
        lines = differences(
            start.card.plan.model_dump(mode="json"), config.plan.model_dump(mode="json")
        )
        raise ConfigError(
            f"--init {source}: has another plan: {'; '.join(lines)}; use a --config with the "
            "same plan, or with more filters in the same cells, or other numbers of them before "
            "the cells"
        )
    return Start(network, start.ancestor)


def _load(config: TrainConfig, request: Request, first: bool) -> Data:
    return load_data(
        *request.data,
        held=request.validation,
        validation=config.validation,
        groups=request.groups,
        only=request.ids,
        cache=request.cache,
        skip_bad=request.skip_bad,
        report=request.out / "defects.csv" if first else None,
        progress=plain_bar if first else None,
        say=tqdm.write if first else None,
    )


class _Silent:
    """Records nothing: for every process but the first."""

    def on_step(self, step: Step, patches: int) -> None: ...

    def on_epoch(self, epoch: Epoch, probabilities: Probabilities) -> None: ...

    def checkpoint(self) -> None: ...
