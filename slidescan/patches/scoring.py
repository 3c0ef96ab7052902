"""Score patches: read ahead in threads, run the engine on batches, keep each batch at once.

Of all patches only ids and scores are held in memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import ModelError
from slidescan.patches.decoding import SHAPE, Bad, Patch
from slidescan.patches.sources import Source
from slidescan.protocols import BATCH, Engine
from slidescan.tools.prefetch import prefetch


class Scores(Protocol):
    """Where probabilities are kept."""

    scores: NDArray[np.float32]
    """(N,), NaN where there is none yet"""

    def add(self, rows: Sequence[int], scores: NDArray[np.float32]) -> None:
        """Keep the probabilities of some rows."""


class Memory:
    """Keeps probabilities in memory only; fulfils Scores."""

    def __init__(self, count: int) -> None:
        self.scores: NDArray[np.float32] = np.full(count, np.nan, np.float32)

    def add(self, rows: Sequence[int], scores: NDArray[np.float32]) -> None:
        self.scores[rows] = scores


def score(
    source: Source,
    engine: Callable[[], Engine],
    kept: Scores,
    threads: int,
    on_batch: Callable[[int], object] = lambda count: None,
) -> dict[int, Bad]:
    """Score the patches that `kept` lacks; returns the rows that cannot be read, and why.

    The engine is built once the first batch has been read. Batches begin at the same rows in every
    run, and an unreadable patch keeps its place in its batch, so a number never depends on where
    an earlier run was stopped.

    Raises:
        ModelError: the network gives values that are not finite.
        WriteError: `kept` is a journal and cannot be written.
    """
    bad: dict[int, Bad] = {}
    todo = unfinished(kept)
    if not todo:
        return bad
    with (
        warnings.catch_warnings(),
        source.opened() as reader,
        ThreadPoolExecutor(threads, "read") as pool,
        closing(prefetch(pool, reader, todo, 2 * threads)) as read,
    ):
        # Pillow warns of tags that are not needed, and of files that it then refuses.
        warnings.filterwarnings("ignore", module="PIL")
        infer = engine()
        for rows, patches in read:
            unread = {r: p for r, p in zip(rows, patches, strict=True) if isinstance(p, Bad)}
            bad |= unread
            if len(unread) < len(rows):
                scores = _checked(infer(_stacked(patches))[:, 0, 0])
                good = [row for row in rows if row not in unread]
                kept.add(good, scores[np.array(good) - rows.start])
            on_batch(len(rows))
    return bad


def sample(source: Source, count: int) -> NDArray[np.uint8]:
    """Read up to `count` patches, the same ones in every run: (N, 96, 96, 3).

    Patches that cannot be read are left out.
    """
    total = len(source.ids)
    chosen = np.random.default_rng(0).choice(total, min(count, total), replace=False)
    with warnings.catch_warnings(), source.opened() as reader:
        warnings.filterwarnings("ignore", module="PIL")
        read = [patch for row in np.sort(chosen).tolist() for patch in reader(range(row, row + 1))]
    return _stacked([patch for patch in read if not isinstance(patch, Bad)])


def unfinished(kept: Scores) -> list[range]:
    """The batches in which a patch has no score."""
    count = len(kept.scores)
    batches = (range(i, min(i + BATCH, count)) for i in range(0, count, BATCH))
    return [rows for rows in batches if np.isnan(kept.scores[rows]).any()]


def _stacked(patches: Sequence[Patch | Bad]) -> NDArray[np.uint8]:
    """(N, 96, 96, 3), black where there are no pixels."""
    pixels = np.zeros((len(patches), *SHAPE), np.uint8)
    for place, patch in zip(pixels, patches, strict=True):
        if not isinstance(patch, Bad):
            place[:] = patch
    return pixels


def _checked(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    wrong = np.count_nonzero(~np.isfinite(scores))
    if wrong:
        raise ModelError(
            f"the network gave {wrong} values that are not finite in {len(scores)} patches; "
            "use --precision fp32 or check the weights"
        )
    return scores
