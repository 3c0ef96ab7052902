"""One training run and what it leaves in its folder."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning_fabric import Fabric
from numpy.typing import NDArray
from tqdm import tqdm

from slidescan import model
from slidescan.errors import ConfigError, WriteError
from slidescan.files import check_folder, lock, release, replacing, writing
from slidescan.nasnet import Network
from slidescan.pictures import diagrams, grids
from slidescan.record import differences
from slidescan_train import checkpoint, curves, history
from slidescan_train.config import TrainConfig
from slidescan_train.data import Data, load_data, write_split
from slidescan_train.events import Events
from slidescan_train.history import Epoch, Step, best, finished
from slidescan_train.learner import Learner
from slidescan_train.loop import Progress, make_fabric, train
from slidescan_train.teacher import load_teacher

PCAM_MPP = 0.972
"""Micrometres per pixel of PatchCamelyon: level 2 of slides at 0.243 (Veeling et al. 2018)."""

CONFIG, CHECKPOINT = "config.yaml", "checkpoint.safetensors"
BEST, LAST = "best.safetensors", "last.safetensors"

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
    """A model whose weights it starts from."""
    resume: bool = False
    device: str = "auto"
    threads: int | None = None


def run(config: TrainConfig, request: Request) -> list[Epoch]:
    """Train, and return the history. What is in `request.out` afterwards, README tells.

    A folder with another run is refused; `resume` goes on with it, or begins where there is none.
    """
    Network(config.plan)  # Refuses a plan that does not fit before minutes of reading.
    fabric = make_fabric(config, request.device, request.threads)
    if fabric.global_rank:
        return _train(config, request, fabric)
    with writing(request.out):
        request.out.parent.mkdir(exist_ok=True)
    check_folder(request.out)
    held = lock(request.out)
    try:
        return _train(config, request, fabric)
    finally:
        release(held)


def _train(config: TrainConfig, request: Request, fabric: Fabric) -> list[Epoch]:
    there = _checkpoint(request)
    teacher = load_teacher(request.teacher, fabric.device) if request.teacher else None
    start = _start(request.start, config) if request.start else None
    first = fabric.global_rank == 0
    if first:
        with writing(request.out):
            request.out.mkdir(exist_ok=True)
    # The others read the cache that the first has built.
    with fabric.rank_zero_first():
        data = _load(config, request, first)
    about = {
        "config": config.model_dump(mode="json"),
        "data": data.fingerprint,
        "teacher": teacher.sha256 if teacher else None,
        "start": start.card.weights_sha256 if start else None,
    }
    learner = Learner(config, fabric, teacher, start.network if start else None)
    progress = Progress()
    if there:
        tensors, numbers = there
        refuse_another(request.out, numbers["about"], about)
        learner.restore(tensors, numbers["learner"])
        progress = Progress.restored(tensors, numbers["progress"])
    if not first:
        train(learner, data.training, data.validation, progress, _Silent())
    else:
        with Run(learner, data, progress, request, about) as kept:
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


def _start(source: str, config: TrainConfig) -> model.Model:
    start = model.load(source)
    lines = differences(
        start.card.plan.model_dump(mode="json"), config.plan.model_dump(mode="json")
    )
    if lines:
        raise ConfigError(
            f"--init {source}: has another plan: {'; '.join(lines)}; take a --config with its plan"
        )
    return start


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


class Run:
    """What a run shows and what it leaves in its folder; fulfils loop's Keeper."""

    def __init__(
        self,
        learner: Learner,
        data: Data,
        progress: Progress,
        request: Request,
        about: Mapping[str, Any],
    ) -> None:
        self.learner, self.data, self.progress = learner, data, progress
        self.request, self.about, self.out = request, about, request.out
        self.config, self.teacher = learner.config, learner.teacher
        self._began, self._drawing_s = time.monotonic(), 0.0

    def __enter__(self) -> Run:
        with replacing(self.out / CONFIG) as beside:
            settings = self.config.model_dump(mode="json")
            beside.write_text(yaml.safe_dump(settings, sort_keys=False))
        write_split(self.out / "split.csv", self.data)
        self._rewind()
        self._events = Events(self.out, purge_step=self.learner.steps + 1)
        done = len(self.progress.history) * len(self.data.training)
        self._bar = show(
            total=self.config.epochs * len(self.data.training),
            initial=done + sum(map(len, self.progress.probabilities)),
            unit="patch",
            desc=self._title(),
            smoothing=0.05,
        )
        return self

    def __exit__(self, *stopped: Any) -> None:
        self._bar.close()
        self._events.__exit__(*stopped)

    def _rewind(self) -> None:
        """Take back what a killed run wrote after its last checkpoint."""
        path = self.out / history.STEPS
        kept = history.read(path, Step) if path.exists() else []
        self.steps = [step for step in kept if step.number <= self.learner.steps]
        history.write(self.out / history.EPOCHS, self.progress.history, Epoch)

    def _title(self) -> str:
        return f"epoch {min(self.progress.epoch, self.config.epochs)}/{self.config.epochs}"

    def on_step(self, step: Step, patches: int) -> None:
        self.steps.append(step)
        self._events.step(step)
        auc = f"{self.progress.history[-1].validation_auc:.4f}" if self.progress.history else "-"
        self._bar.set_postfix(loss=f"{step.loss:.3f}", auc=auc, refresh=False)
        self._bar.update(patches)

    def on_epoch(self, epoch: Epoch, probabilities: NDArray[np.float32]) -> None:
        epochs = self.progress.history
        self._events.epoch(epoch, self.learner.steps)
        history.write(self.out / history.EPOCHS, epochs, Epoch)
        self._keep_model(LAST, epoch)
        if best(epochs) is epoch:
            self._keep_model(BEST, epoch)
        self._draw(probabilities)
        tqdm.write(
            f"epoch {epoch.number}/{self.config.epochs}: loss {epoch.training_loss:.4f}, "
            f"validation loss {epoch.validation_loss:.4f}, AUC {epoch.validation_auc:.4f}, "
            f"accuracy {epoch.validation_accuracy:.4f}, {epoch.images_per_second:.0f} patches/s"
        )
        self._bar.set_description(self._title(), refresh=False)

    def checkpoint(self) -> None:
        """Everything that a resumed run needs, whole or as it was."""
        history.write(self.out / history.STEPS, self.steps, Step)
        checkpoint.save(
            self.out / CHECKPOINT,
            self.learner.tensors() | self.progress.tensors(),
            {
                "about": self.about,
                "learner": self.learner.numbers(),
                "progress": self.progress.numbers(),
            },
        )

    def _draw(self, probabilities: NDArray[np.float32]) -> None:
        """Keep the pictures current, for at most a tenth of the time, and at the end."""
        started = time.monotonic()
        last = finished(self.progress.history, self.config.epochs, self.config.patience)
        if not last and self._drawing_s > 0.1 * (started - self._began):
            return
        held_out = self.data.validation
        curves.training(self.out / "training.png", self.steps, self.progress.history)
        title = f"Validation after epoch {len(self.progress.history)} of {self.config.epochs}"
        diagrams.validation(self.out / "validation.png", held_out.labels, probabilities, title)
        rows = np.concatenate(grids.worst(held_out.labels, probabilities))
        worst = held_out.take(rows)
        grids.mistakes(
            self.out / "mistakes.png", worst.pixels(), worst.labels, probabilities[rows], worst.ids
        )
        self._drawing_s += time.monotonic() - started

    def _keep_model(self, name: str, epoch: Epoch) -> None:
        training, held_out = self.data.training, self.data.validation
        chosen = ", chosen by its AUC on them" if name == BEST else ""
        packages = ("slidescan", "torch", "albumentations", "numpy")
        model.save(
            self.out / name,
            self.learner.average,
            mpp=PCAM_MPP,
            data=f"{self.data.about}, {len(training)} training patches, "
            f"{int(training.labels.sum())} of them with tumour",
            split=f"{self.data.split}{chosen}",
            validation={
                "patches": len(held_out),
                "auc": round(epoch.validation_auc, 4),
                "accuracy": round(epoch.validation_accuracy, 4),
                "nll": round(epoch.validation_loss, 4),
            },
            reproduce=shlex.join(["slidescan", *sys.argv[1:]])
            + f" (epoch {epoch.number} of {self.config.epochs})",
            versions={name: version(name) for name in packages},
            teacher=f"{self.teacher.name}, SHA-256 {self.teacher.sha256}" if self.teacher else None,
        )


def show(*args: Any, **kwargs: Any) -> Any:
    """tqdm on stderr, silent where that is no terminal."""
    bar: Any = tqdm
    return bar(*args, disable=None, dynamic_ncols=True, **kwargs)
