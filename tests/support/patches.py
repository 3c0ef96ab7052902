"""A small data set in every layout. The label is easy to see: the centre is dark or bright."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidescan.geometry import LABEL_PX, PATCH_PX
from slidescan.patches.labelled.patches import Patches
from slidescan.patches.labelled.splits import in_validation

CENTRE = slice((PATCH_PX - LABEL_PX) // 2, (PATCH_PX + LABEL_PX) // 2)


def make(count: int, seed: int = 0) -> Patches:
    """Noise; the central 32 x 32 px are dark where the label is 1. Ids are SHA-1, as Kaggle's."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    pixels = rng.integers(0, 256, (count, PATCH_PX, PATCH_PX, 3), np.uint8)
    centre = pixels[:, CENTRE, CENTRE]
    centre[:] = np.where(labels[:, None, None, None] == 1, centre // 2, 128 + centre // 2)
    ids = tuple(hashlib.sha1(patch.tobytes()).hexdigest() for patch in pixels)
    return Patches.of(ids, pixels, labels)


def split(patches: Patches, share: float = 0.1) -> tuple[Patches, Patches]:
    """Training and validation, as `load_data` divides them: each sorted by id."""
    ordered = patches.take(np.argsort(patches.ids))
    held_out = np.array([in_validation(i, share) for i in ordered.ids])
    return ordered.take(np.flatnonzero(~held_out)), ordered.take(np.flatnonzero(held_out))


def write(folder: Path, patches: Patches) -> Path:
    """Write `patches` in Kaggle's layout and return `folder`."""
    (folder / "train").mkdir(parents=True)
    for patch_id, pixels in zip(patches.ids, patches.pixels(), strict=True):
        save_patch(folder, patch_id, pixels)
    write_labels(folder, zip(patches.ids, patches.labels.tolist(), strict=True))
    return folder


def save_patch(folder: Path, patch_id: str, pixels: NDArray[np.uint8]) -> Path:
    path = folder / "train" / f"{patch_id}.tif"
    Image.fromarray(pixels).save(path)
    return path


def write_labels(folder: Path, rows: object, header: tuple[str, ...] = ("id", "label")) -> None:
    with (folder / "train_labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])  # type: ignore[misc]


def write_folders(
    folder: Path,
    patches: Patches,
    classes: tuple[str, str] = ("0", "1"),
    suffixes: Sequence[str] = (".png",),
) -> Path:
    """Write `patches` as a folder for each class, the formats in turn, and return `folder`."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for row, (patch_id, pixels) in enumerate(zip(patches.ids, patches.pixels(), strict=True)):
        name = f"{classes[patches.labels[row]]}/{patch_id}{suffixes[row % len(suffixes)]}"
        Image.fromarray(pixels).save(folder / name, lossless=True)
    return folder


def write_hdf5(
    folder: Path, train: Patches, valid: Patches, chunk: tuple[int, int, int, int] | None = None
) -> Path:
    """Write them in the layout of the original PatchCamelyon, compressed in chunks of `chunk`."""
    import h5py

    folder.mkdir(parents=True, exist_ok=True)
    for side, part in ("train", train), ("valid", valid):
        stem = folder / f"camelyonpatch_level_2_split_{side}"
        with h5py.File(f"{stem}_x.h5", "w") as file:
            file.create_dataset("x", data=part.pixels(), chunks=chunk or True, compression="gzip")
        with h5py.File(f"{stem}_y.h5", "w") as file:
            labels = part.labels.astype(np.uint8).reshape(-1, 1, 1, 1)
            file.create_dataset("y", data=labels, compression="gzip")
    return folder
