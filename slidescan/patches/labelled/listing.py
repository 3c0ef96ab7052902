"""Labelled patches and their files, before any pixel is read."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slidescan.patches.labelled.defects import Defect
from slidescan.patches.labelled.reading import Files, Piece, Rows

Layout = Literal["kaggle", "hdf5", "folders", "unlabelled"]


@dataclass(frozen=True, slots=True)
class Listing:
    """Labelled patches and their files, sorted by id."""

    root: Path
    layout: Layout
    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    """(N,), 1 for tumour, 0 for normal, -1 where there are none."""
    names: tuple[str, ...]
    """The file of each patch below `root`; for an HDF5 file, with # and the row."""
    stamps: tuple[str, ...]
    """Size and modification time of each file."""
    held_out: NDArray[np.bool_] | None = None
    """(N,), true for the validation side of an official split."""
    defects: tuple[Defect, ...] = ()
    block: int = field(default=256, compare=False)
    """Number of patches to read at once."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.intp]) -> Listing:
        """Take the patches at `rows`, which are in rising order, without defects."""
        ids, names, stamps = (
            tuple(values[i] for i in rows) for values in (self.ids, self.names, self.stamps)
        )
        held_out = None if self.held_out is None else self.held_out[rows]
        return replace(
            self, ids=ids, labels=self.labels[rows], names=names, stamps=stamps,
            held_out=held_out, defects=(),
        )  # fmt: skip

    def fingerprint(self) -> str:
        """SHA-256 over the names of the files, their sizes and modification times."""
        lines = (f"{n}\0{s}\n" for n, s in zip(self.names, self.stamps, strict=True))
        return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()

    def pieces(self) -> list[Piece]:
        """All patches in order, in pieces to read at once."""
        if self.layout != "hdf5":
            starts = range(0, len(self), self.block)
            return [Files(self.root, self.names[i : i + self.block]) for i in starts]
        pieces: list[Piece] = []
        places = ((file, int(row)) for file, _, row in (n.rpartition("#") for n in self.names))
        for (file, _), group in groupby(places, lambda place: (place[0], place[1] // self.block)):
            pieces.append(Rows(self.root / file, np.array([row for _, row in group])))
        return pieces


def stamp(stat: os.stat_result) -> str:
    """Size and modification time."""
    return f"{stat.st_size} {stat.st_mtime_ns}"
