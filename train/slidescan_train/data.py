"""Patches from the Kaggle edition of PatchCamelyon, and the fixed split.

Layout: `DIR/train/<id>.tif` (96 x 96 RGB) and `DIR/train_labels.csv` with the columns id, label.
"""

from __future__ import annotations

import csv
import hashlib
import sys
import warnings
from bisect import bisect_left
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

        Both keep the order of the ids, and are views where training comes first, as
        `load_patches` reads it: all of PatchCamelyon is 6 GB. Raises `DataError` where one of
        them lacks a class.
        """
        held_out = np.array([in_validation(i) for i in self.ids], dtype=bool)
        border = len(self) - int(held_out.sum())
        ordered = (
            self.take(np.argsort(held_out, kind="stable")) if held_out[:border].any() else self
        )
        training, validation = ordered._part(slice(border)), ordered._part(slice(border, None))
        for name, part in ("training", training), ("validation", validation):
            if len(np.unique(part.labels)) < 2:
                raise DataError(
                    f"{name}: its {len(part)} patches do not have both labels; add more patches"
                )
        return training, validation

    def _part(self, rows: slice) -> Patches:
        return Patches(self.ids[rows], self.pixels[rows], self.labels[rows])


def in_validation(patch_id: str) -> bool:
    """Whether a patch is held out: its id's SHA-256 falls into the lowest tenth.

    The id is hashed although Kaggle's ids are hashes themselves: others' need not be.
    """
    digest = hashlib.sha256(patch_id.encode()).digest()
    return int.from_bytes(digest[:8], "big") < VALIDATION_SHARE * 2**64


def load_patches(
    root: Path, progress: Callable[..., Any] | None = None, only: Path | None = None
) -> Patches:
    """Read the labelled patches under `root`: training first, each side sorted by id.

    `progress` wraps the files (tqdm's signature). `only` is a text file with an id, or a unique
    beginning of one, per line; blank lines and lines that start with # say nothing. Raises
    `DataError` where the layout, a label, an image or a line is not as described.
    """
    labels = _read_labels(root / "train_labels.csv")
    chosen = _read_ids(only, sorted(labels)) if only else labels
    ids = tuple(sorted(chosen, key=lambda i: (in_validation(i), i)))
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


def _read_ids(path: Path, known: list[str]) -> set[str]:
    """Those of the sorted ids `known` that the lines of `path` name."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    chosen: set[str] = set()
    unclear: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        first, end = bisect_left(known, line), bisect_left(known, line + chr(sys.maxunicode))
        if end - first == 1 or known[first:end][:1] == [line]:
            chosen.add(known[first])
        else:
            unclear.append(f"line {number}, {line[:60]!r}, matches {end - first}")
    if unclear:
        raise DataError(
            f"{path}: {unclear[0]} labelled patches instead of one (such lines: "
            f"{len(unclear)}); correct --ids or --data"
        )
    return chosen


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
