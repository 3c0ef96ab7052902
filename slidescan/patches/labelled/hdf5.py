"""The original PatchCamelyon: HDF5 files with a published split (Veeling et al. 2018).

`camelyonpatch_level_2_split_{train,valid}_x.h5` hold the dataset x, uint8 (N, 96, 96, 3), those
with _y the dataset y, (N, 1, 1, 1) of 0 and 1. The test files are never read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import DataError
from slidescan.patches.decoding import SHAPE
from slidescan.patches.hdf5_files import open_dataset
from slidescan.patches.labelled.listing import Listing, stamp
from slidescan.patches.sources import PREFIX

LEAST, MOST = 256, 16_384
"""Patches of a file read at once, though more be compressed together: 450 MB."""


SIDES = ("train", "valid")


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of the published split."""

    name: str
    pixels: Path
    labels: NDArray[np.int64]
    block: int
    """Patches best read together: whole compressed chunks, at least 256."""

    def ids(self) -> list[str]:
        return [f"{self.name}-{row:07d}" for row in range(len(self.labels))]

    def names(self) -> list[str]:
        return [f"{self.pixels.name}#{row}" for row in range(len(self.labels))]

    def stamps(self) -> list[str]:
        return [stamp(self.pixels.stat())] * len(self.labels)


def list_hdf5(root: Path) -> Listing:
    """All patches of train and valid. Raises `DataError` where a file is not as described."""
    paths = {
        name: root / f"{PREFIX}{name}.h5" for side in SIDES for name in (f"{side}_x", f"{side}_y")
    }
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        packed = any((root / f"{name}.gz").is_file() for name in missing)
        remedy = f"unpack them: gunzip {root}/*.h5.gz" if packed else "put them there as well"
        raise DataError(f"{root}: {', '.join(missing)} missing; {remedy}")
    sides = [_read_side(side, paths[f"{side}_x"], paths[f"{side}_y"]) for side in SIDES]
    return Listing(
        root,
        "hdf5",
        _joined(side.ids() for side in sides),
        np.concatenate([side.labels for side in sides]),
        _joined(side.names() for side in sides),
        _joined(side.stamps() for side in sides),
        held_out=np.repeat([False, True], [len(side.labels) for side in sides]),
        block=min(MOST, max(side.block for side in sides)),
    )


def _joined(parts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(chain.from_iterable(parts))


def _read_side(name: str, x_path: Path, y_path: Path) -> _Side:
    with open_dataset(x_path, "x") as x:
        if x.shape[1:] != SHAPE or x.dtype != np.uint8:
            raise DataError(f"{x_path}: x is {x.dtype} {x.shape}, wanted is uint8 (N, 96, 96, 3)")
        count, chunk = x.shape[0], x.chunks[0] if x.chunks else 1
    with open_dataset(y_path, "y") as y:
        if y.size != count:
            raise DataError(f"{y_path}: {y.size} labels for the {count} patches of {x_path.name}")
        if y.dtype.kind not in "biuf":
            raise DataError(f"{y_path}: y is {y.dtype}, wanted are the numbers 0 and 1")
        labels = y.rows(0, y.shape[0]).reshape(-1)
    others = set(np.unique(labels).tolist()) - {0, 1}
    if others:
        raise DataError(f"{y_path}: label {min(others)} is not 0 or 1")
    return _Side(name, x_path, labels.astype(np.int64), chunk * -(-LEAST // chunk))
