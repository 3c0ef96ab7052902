"""What a run prints, and what it writes into its folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from slidescan.commands.terminal import plain_bar
from slidescan.models import familiarity, model
from slidescan.models.reference import Reference
from slidescan.models.scores import ScoredPatches, TrainingPatches
from slidescan.patches.labelled import Data, write_split
from slidescan.patches.labelled.splits import ids_sha256
from slidescan.pictures import diagrams, grids
from slidescan.protocols import BATCH
from slidescan.statistics.mistakes import worst_mistakes
from slidescan.tools.atomic_files import replacing
from slidescan_train.loop import history
from slidescan_train.loop.history import SCORES, Epoch, Step, best, column, finished, further_sets
from slidescan_train.loop.learner import Learner
from slidescan_train.loop.progress import Progress
from slidescan_train.loop.training import Probabilities
from slidescan_train.loop.validation import validate
from slidescan_train.runs import checkpoint, pictures
from slidescan_train.runs.events import Events
from slidescan_train.runs.files import BEST, CHECKPOINT, CONFIG, LAST, SPLIT
from slidescan_train.teachers.lineage import Start

PCAM_MPP = 0.972
"""Micrometres per pixel of PatchCamelyon: level 2 of slides at 0.243 (Veeling et al. 2018)."""


class RunFolder:
    """Fills the folder of a run, and shows a progress bar; fulfils `loop.training.Recorder`."""

    def __init__(
        self,
        out: Path,
        learner: Learner,
        data: Data,
        progress: Progress,
        about: Mapping[str, Any],
        start: Start | None,
        command: str,
    ) -> None:
        self.learner, self.data, self.progress = learner, data, progress
        self.out, self.about, self.command = out, about, command
        self.config, self.teachers, self.start = learner.config, learner.teachers, start
        self._sides = {
            "held_out_sha256": ids_sha256(data.validation.ids),
            "trained_on_sha256": ids_sha256(data.training.ids),
        }
        self._began, self._drawing_s = time.monotonic(), 0.0

    def __enter__(self) -> RunFolder:
        with replacing(self.out / CONFIG) as beside:
            settings = self.config.model_dump(mode="json")
            beside.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        write_split(self.out / SPLIT, self.data)
        self._rewind()
        self._events = Events(self.out, purge_step=self.learner.steps + 1)
        done = len(self.progress.history) * len(self.data.training)
        self._bar = plain_bar(
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
        """Drop the steps that a killed run recorded after its last checkpoint."""
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

    def on_epoch(self, epoch: Epoch, probabilities: Probabilities) -> None:
        epochs = self.progress.history
        self._events.epoch(epoch, self.learner.steps)
        history.write(self.out / history.EPOCHS, epochs, Epoch)
        scores = [
            ScoredPatches(
                name=each.name,
                patches=len(each.patches),
                tumour=int(each.patches.labels.sum()),
                fingerprint=each.fingerprint,
                rule=each.rule,
                ids_sha256=ids_sha256(each.patches.ids),
                scores=validate(each.patches.labels, probabilities[each.name]),
            )
            for each in self.data.sets
        ]
        self._keep_model(LAST, epoch, scores)
        if best(epochs) is epoch:
            self._keep_model(BEST, epoch, scores)
        self._draw(probabilities)
        tqdm.write(self._line(epoch))
        self._bar.set_description(self._title(), refresh=False)

    def _line(self, epoch: Epoch) -> str:
        """The scores of an epoch, side by side for several validation sets."""
        further = further_sets([epoch])
        first = self.data.sets[0].name if further else "validation"
        parts = [
            f"loss {epoch.training_loss:.4f}",
            f"{first} loss {epoch.validation_loss:.4f}, AUC {epoch.validation_auc:.4f}, "
            f"accuracy {epoch.validation_accuracy:.4f}",
        ]
        for name in further:
            loss, accuracy, auc = (epoch.further[column(score, name)] for score in SCORES)
            parts.append(f"{name} loss {loss:.4f}, AUC {auc:.4f}, accuracy {accuracy:.4f}")
        parts.append(f"{epoch.images_per_second:.0f} patches/s")
        between = "; " if further else ", "
        return f"epoch {epoch.number}/{self.config.epochs}: {between.join(parts)}"

    def checkpoint(self) -> None:
        """Save all that a resumed run needs; a full disk leaves the checkpoint before."""
        history.write(self.out / history.STEPS, self.steps, Step)
        checkpoint.save(
            self.out / CHECKPOINT,
            self.learner.tensors() | self.progress.tensors(),
            {
                "about": self.about,
                "command": self.command,
                "learner": self.learner.numbers(),
                "progress": self.progress.numbers(),
            },
        )

    def _draw(self, probabilities: Probabilities) -> None:
        """Draw the pictures, in at most a tenth of the run's time, and after the last epoch."""
        started = time.monotonic()
        last = finished(self.progress.history, self.config.epochs, self.config.patience)
        if not last and self._drawing_s > 0.1 * (started - self._began):
            return
        pictures.training(self.out / "training.png", self.steps, self.progress.history)
        after = f"after epoch {len(self.progress.history)} of {self.config.epochs}"
        for number, each in enumerate(self.data.sets):
            name = f"validation-{each.name}.png" if number else "validation.png"
            which = f" on {each.name}" if len(self.data.sets) > 1 else ""
            p, title = probabilities[each.name], f"Validation{which} {after}"
            diagrams.validation(self.out / name, each.patches.labels, p, title)
        held_out, p = self.data.validation, probabilities[self.data.sets[0].name]
        rows = np.concatenate(worst_mistakes(held_out.labels, p))
        worst = held_out.take(rows)
        grids.mistakes(self.out / "mistakes.png", worst.pixels(), worst.labels, p[rows], worst.ids)
        self._drawing_s += time.monotonic() - started

    @cached_property
    def _reference(self) -> Reference | None:
        """What the training patches look like."""
        training = self.data.training
        chosen = np.linspace(0, len(training) - 1, min(familiarity.SUMMARISED, len(training)))
        parts = np.array_split(chosen.astype(np.intp), -(-len(chosen) // BATCH))
        measured = [familiarity.measure(training.pixels(part)) for part in parts]
        return familiarity.summarise(np.concatenate(measured))

    def _keep_model(self, name: str, epoch: Epoch, scores: Sequence[ScoredPatches]) -> None:
        training = self.data.training
        chosen = ", chosen by its AUC on them" if name == BEST else ""
        packages = ("slidescan", "torch", "albumentations", "numpy")
        model.save(
            self.out / name,
            self.learner.average,
            mpp=PCAM_MPP,
            data=f"{self.data.about}, {len(training)} training patches, "
            f"{int(training.labels.sum())} of them with tumour",
            split=f"{self.data.split}{chosen}",
            **self._sides,
            validation=scores[0].scores,
            training_sets=[TrainingPatches(**asdict(each)) for each in self.data.folders],
            validation_sets=scores,
            chosen_by=scores[0].name if name == BEST else None,
            teachers=[teacher.record for teacher in self.teachers],
            start=self.start.record if self.start else None,
            reference=self._reference,
            reproduce=f"{self.command} (epoch {epoch.number} of {self.config.epochs})",
            versions={name: version(name) for name in packages},
        )
