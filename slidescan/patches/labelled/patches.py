"""Labelled patches, in memory or memory-mapped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Patches:
    """Labelled patches: rows of a shared array that is never copied.

    PatchCamelyon has 6 GB, so the array is usually a memory-mapped cache, and both sides of a split
    are rows of it. Pickling for another process sends the path; the array is mapped there again.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    """(N,), 1 for tumour."""
    stored: NDArray[np.uint8]
    """(M, 96, 96, 3) RGB."""
    rows: NDArray[np.intp]
    """(N,): the row of each patch in `stored`."""

    @classmethod
    def of(
        cls, ids: tuple[str, ...], pixels: NDArray[np.uint8], labels: NDArray[np.int64]
    ) -> Patches:
        """Make patches of all `pixels` (N, 96, 96, 3), in their order."""
        return cls(ids, labels, pixels, np.arange(len(ids)))

    def __len__(self) -> int:
        return len(self.ids)

    def pixels(self, index: Any = slice(None)) -> NDArray[np.uint8]:
        """RGB of the patches at `index` (anything numpy indexes by), (n, 96, 96, 3)."""
        return np.asarray(self.stored[self.rows[index]])

    def take(self, index: NDArray[np.intp]) -> Patches:
        """Take the patches at `index`, in its order."""
        ids = tuple(self.ids[i] for i in index)
        return Patches(ids, self.labels[index], self.stored, self.rows[index])

    def __reduce__(self) -> tuple[Callable[..., Patches], tuple[object, ...]]:
        stored = self.stored
        if isinstance(stored, np.memmap) and stored.base is not None:
            # numpy would send the content of the whole file.
            return _reopen, (self.ids, self.labels, self.rows, stored.filename, stored.offset)
        return Patches, (self.ids, self.labels, stored, self.rows)


def _reopen(
    ids: tuple[str, ...], labels: NDArray[np.int64], rows: NDArray[np.intp], file: Any, offset: int
) -> Patches:
    shape = (-1, 96, 96, 3)
    stored = np.memmap(file, np.uint8, "r", offset).reshape(shape)
    return Patches(ids, labels, stored, rows)
