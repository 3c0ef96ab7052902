"""Patches from the Kaggle edition of PatchCamelyon, and the fixed split.

Layout: `DIR/train/<id>.tif` (96 x 96 RGB) and `DIR/train_labels.csv` with the columns id, label.
"""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slidescan.errors import DataError
from slidescan.geometry import PATCH_PX

VALIDATION_SHARE = 0.1
SPLIT = "validation: SHA-256(id) / 2**256 < 0.1; training: the rest"


@dataclass(frozen=True, slots=True)
class Patches:
    """Labelled patches in memory.

    `pixels` is (N, 96, 96, 3) uint8 RGB, `labels` (N,) int64 with 1 for tumour.
    """

    ids: tuple[str, ...]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: NDArray[np.intp]) -> Patches:
        return Patches(tuple(self.ids[i] for i in index), self.pixels[index], self.labels[index])

    def split(self) -> tuple[Patches, Patches]:
        """(training, validation), decided by each id alone, so it never changes.

        Raises `DataError` where one of them lacks a class.
        """
        held_out = np.array([in_validation(i) for i in self.ids], dtype=bool)
        for name, part in (
            ("training", self.labels[~held_out]),
            ("validation", self.labels[held_out]),
        ):
            if len(np.unique(part)) < 2:
                raise DataError(
                    f"{name}: its {len(part)} patches do not have both labels; add more patches"
                )
        return self.take(np.flatnonzero(~held_out)), self.take(np.flatnonzero(held_out))


def in_validation(patch_id: str) -> bool:
    """Whether a patch is held out: its id's SHA-256 falls into the lowest tenth.

    The id is hashed although Kaggle's ids are hashes themselves: others' need not be.
    """
    digest = hashlib.sha256(patch_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < VALIDATION_SHARE * 2**64


def load_patches(root: Path, progress: Callable[..., Any] | None = None) -> Patches:
    """Read all labelled patches under `root`; `progress` wraps the files (tqdm's signature).

    Raises `DataError` where the layout, a label or an image is not as described above.
    """
    labels = _read_labels(root / "train_labels.csv")
    ids = tuple(sorted(labels))
    pixels = np.empty((len(ids), PATCH_PX, PATCH_PX, 3), np.uint8)
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        # Pillow warns of tags that nobody needs, or of what it then refuses.
        warnings.filterwarnings("ignore", module="PIL")
        read: Iterable[NDArray[np.uint8]] = pool.map(
            _read_patch, (root / "train" / f"{i}.tif" for i in ids)
        )
        if progress:
            read = progress(read, total=len(ids), desc="reading patches", unit="patch")
        for row, image in enumerate(read):
            pixels[row] = image
    return Patches(ids, pixels, np.array([labels[i] for i in ids], dtype=np.int64))


def _read_labels(path: Path) -> dict[str, int]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"id", "label"} <= set(reader.fieldnames or ()):
                raise DataError(f"{path}: has the columns {reader.fieldnames}, needs id and label")
            labels: dict[str, int] = {}
            for row in reader:
                if not row["id"]:
                    raise DataError(f"{path}: line {reader.line_num}: has no id")
                if row["label"] not in ("0", "1"):
                    raise DataError(
                        f"{path}: line {reader.line_num}: label {row['label']!r} is not 0 or 1"
                    )
                if labels.setdefault(row["id"], int(row["label"])) != int(row["label"]):
                    raise DataError(f"{path}: id {row['id']} stands there as 0 and as 1")
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; --data wants Kaggle's layout: train/<id>.tif, train_labels.csv"
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    for missing in {0, 1} - set(labels.values()):
        raise DataError(f"{path}: no patch has label {missing}; a classifier needs both")
    return labels


def _read_patch(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            if image.size != (PATCH_PX, PATCH_PX):
                raise DataError(
                    f"{path}: is {image.width} x {image.height} px, a patch has "
                    f"{PATCH_PX} x {PATCH_PX}"
                )
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: is labelled and missing") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image: {error}") from error
