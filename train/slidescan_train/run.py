"""One training run and what it leaves: the model, its settings and its scores by epoch."""

from __future__ import annotations

import csv
import shlex
import sys
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from slidescan.errors import WriteError
from slidescan.files import check_folder, replacing, writing
from slidescan.model import save
from slidescan.nasnet import Network
from slidescan_train.config import TrainConfig
from slidescan_train.data import SPLIT, Patches, load_patches
from slidescan_train.loop import Epoch, train

PCAM_MPP = 0.972
"""Micrometres per pixel of PatchCamelyon: level 2 of slides at 0.243 (Veeling et al. 2018)."""


MODEL = "model.safetensors"


def run(config: TrainConfig, data: Path, out: Path, ids: Path | None = None) -> Epoch:
    """Train on `data` and keep in the folder `out`, after every epoch, the averaged weights.

    There is no choice of the best epoch: the validation patches would no longer be held out.
    `ids` lists the patches to take, see `load_patches`; without it, all are. Returns the last
    epoch. A folder with an earlier run's model is refused.
    """
    Network(config.plan)  # Refuses a plan that does not fit before minutes of reading.
    check_folder(out)
    if (out / MODEL).exists():
        raise WriteError(f"{out}: holds the model of an earlier run; choose another --out")
    with writing(out):
        out.mkdir(exist_ok=True)
    # That the folder can be written to shows here, and bad data leaves no settings behind.
    with replacing(out / "config.yaml") as beside:
        beside.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        training, validation = load_patches(data, progress, only=ids).split()
    kept = Run(config, out, training, validation)
    with kept.bar:
        train(config, training, validation, kept.on_step, kept.on_epoch)
    return kept.epochs[-1]


class Run:
    """What a run shows and what it leaves in its folder."""

    def __init__(
        self, config: TrainConfig, out: Path, training: Patches, validation: Patches
    ) -> None:
        self.config = config
        self.out = out
        self.training = training
        self.validation = validation
        self.epochs: list[Epoch] = []
        steps = len(training) // min(config.batch, len(training))
        self.bar = progress(total=steps, desc=f"epoch 1/{config.epochs}", unit="batch")

    def on_step(self, loss: float) -> None:
        last = {"auc": f"{self.epochs[-1].auc:.3f}"} if self.epochs else {}
        self.bar.update()
        self.bar.set_postfix(loss=f"{loss:.3f}", **last)

    def on_epoch(self, epoch: Epoch, network: Network) -> None:
        """Keep the averaged network and its scores, both whole at any moment."""
        self.epochs.append(epoch)
        self.keep_metrics()
        self.keep_model(epoch, network)
        tqdm.write(
            f"epoch {epoch.number}/{self.config.epochs}: loss {epoch.loss:.4f}, validation AUC "
            f"{epoch.auc:.4f}, accuracy {epoch.accuracy:.4f}, NLL {epoch.nll:.4f}, "
            f"{epoch.images_per_second:.0f} patches/s"
        )
        if epoch.number < self.config.epochs:
            self.bar.reset()
            self.bar.set_description(f"epoch {epoch.number + 1}/{self.config.epochs}")

    def keep_metrics(self) -> None:
        with replacing(self.out / "metrics.csv") as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Epoch)])
            writer.writeheader()
            writer.writerows(asdict(e) for e in self.epochs)

    def keep_model(self, epoch: Epoch, network: Network) -> None:
        packages = ("slidescan", "torch", "albumentations", "numpy")
        save(
            self.out / MODEL,
            network,
            mpp=PCAM_MPP,
            data=f"PatchCamelyon, {len(self.training)} training patches, "
            f"{int(self.training.labels.sum())} of them with tumour",
            split=f"{SPLIT}; not slide-disjoint, so optimistic",
            validation={
                "patches": len(self.validation),
                "auc": round(epoch.auc, 4),
                "accuracy": round(epoch.accuracy, 4),
                "nll": round(epoch.nll, 4),
            },
            reproduce=shlex.join(["slidescan", *sys.argv[1:]])
            + f" (epoch {epoch.number} of {self.config.epochs})",
            versions={name: version(name) for name in packages},
        )


def progress(*args: Any, **kwargs: Any) -> Any:
    """tqdm on stderr, silent where that is no terminal."""
    bar: Any = tqdm
    return bar(*args, disable=None, dynamic_ncols=True, **kwargs)
