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

from slidescan.files import check_folder, replacing, writing
from slidescan.model import save
from slidescan.nasnet import Network
from slidescan_train.config import TrainConfig
from slidescan_train.data import SPLIT, load_patches
from slidescan_train.loop import Epoch, train

PCAM_MPP = 0.972
"""Micrometres per pixel of PatchCamelyon: level 2 of slides at 0.243 (Veeling et al. 2018)."""


def run(config: TrainConfig, data: Path, out: Path) -> Epoch:
    """Train on `data` and keep in the folder `out`, after every epoch, the averaged weights.

    There is no choice of the best epoch: the validation patches would no longer be held out.
    Returns the last epoch.
    """
    Network(config.plan)  # Refuses a plan that does not fit before minutes of reading.
    check_folder(out)
    with writing(out):
        out.mkdir(exist_ok=True)
    # The folder is tried first as well, and an earlier run's settings stay if the data is bad.
    with replacing(out / "config.yaml") as beside:
        beside.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        training, validation = load_patches(data, progress).split()

    steps = len(training) // min(config.batch, len(training))
    epochs: list[Epoch] = []
    bar = progress(total=steps, desc=f"epoch 1/{config.epochs}", unit="batch")

    def on_step(loss: float) -> None:
        bar.update()
        bar.set_postfix(loss=f"{loss:.3f}", **({"auc": f"{epochs[-1].auc:.3f}"} if epochs else {}))

    def on_epoch(epoch: Epoch, network: Network) -> None:
        epochs.append(epoch)
        keep(epoch, network)
        tqdm.write(
            f"epoch {epoch.number}/{config.epochs}: loss {epoch.loss:.4f}, validation AUC "
            f"{epoch.auc:.4f}, accuracy {epoch.accuracy:.4f}, NLL {epoch.nll:.4f}, "
            f"{epoch.images_per_second:.0f} patches/s"
        )
        if epoch.number < config.epochs:
            bar.reset()
            bar.set_description(f"epoch {epoch.number + 1}/{config.epochs}")

    def keep(epoch: Epoch, network: Network) -> None:
        with replacing(out / "metrics.csv") as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Epoch)])
            writer.writeheader()
            writer.writerows(asdict(e) for e in epochs)
        save(
            out / "model.safetensors",
            network,
            mpp=PCAM_MPP,
            data=f"PatchCamelyon, {len(training)} training patches, "
            f"{int(training.labels.sum())} of them with tumour",
            split=f"{SPLIT}; not slide-disjoint, so optimistic",
            validation={
                "patches": len(validation),
                "auc": round(epoch.auc, 4),
                "accuracy": round(epoch.accuracy, 4),
                "nll": round(epoch.nll, 4),
            },
            reproduce=shlex.join(["slidescan", *sys.argv[1:]])
            + f" (epoch {epoch.number} of {config.epochs})",
            versions={
                name: version(name) for name in ("slidescan", "torch", "albumentations", "numpy")
            },
        )

    with bar:
        train(config, training, validation, on_step, on_epoch)
    return epochs[-1]


def progress(*args: Any, **kwargs: Any) -> Any:
    """tqdm on stderr, silent where that is no terminal."""
    bar: Any = tqdm
    return bar(*args, disable=None, dynamic_ncols=True, **kwargs)
