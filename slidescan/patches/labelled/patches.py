"""Labelled patches, in memory or memory-mapped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Joined:
    """Arrays of patches one after another, which are not copied."""

    parts: tuple[NDArray[np.uint8], ...]
    """(M, 96, 96, 3) each."""

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        """Return a copy of the patches at `rows`, an index or an array of indices."""
        rows = np.asarray(rows)
        starts = np.cumsum([0, *map(len, self.parts)])
        part = np.searchsorted(starts, rows, side="right") - 1
        out = np.empty((*rows.shape, *self.parts[0].shape[1:]), np.uint8)
        for n in np.unique(part).tolist():
            at = part == n
            out[at] = self.parts[n][rows[at] - starts[n]]
        return out


def joined(arrays: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8] | Joined:
    """Join arrays of patches; a single one stays as it is."""
    return arrays[0] if len(arrays) == 1 else Joined(tuple(arrays))


@dataclass(frozen=True, slots=True)
class Patches:
    """Labelled patches: rows of shared arrays that are never copied.

    PatchCamelyon has 6 GB, so an array is usually a memory-mapped cache, and both sides of a split
    are rows of it. Pickling for another process sends the path; the array is mapped there again.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    """(N,), 1 for tumour."""
    stored: NDArray[np.uint8] | Joined
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
        parts = self.stored.parts if isinstance(self.stored, Joined) else (self.stored,)
        return _reopen, (self.ids, self.labels, self.rows, tuple(map(_sent, parts)))


def _sent(stored: NDArray[np.uint8]) -> object:
    """What is pickled of an array: of a mapped one the place, as numpy would send its content."""
    if isinstance(stored, np.memmap) and stored.base is not None:
        return stored.filename, stored.offset
    return stored


def _reopen(
    ids: tuple[str, ...], labels: NDArray[np.int64], rows: NDArray[np.intp], parts: Sequence[Any]
) -> Patches:
    return Patches(ids, labels, joined([_mapped(part) for part in parts]), rows)


def _mapped(part: Any) -> NDArray[np.uint8]:
    if isinstance(part, np.ndarray):
        return part
    file, offset = part
    return np.memmap(file, np.uint8, "r", offset).reshape(-1, 96, 96, 3)
