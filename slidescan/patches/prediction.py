"""Scoring patches: read ahead in threads, infer in batches, keep each batch at once.

Memory does not grow with the number of patches but for their ids and scores.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import ModelError
from slidescan.patches.decoding import SHAPE, Bad, Patch
from slidescan.patches.journal import Journal
from slidescan.patches.sources import Source
from slidescan.protocols import Engine
from slidescan.tools.atomic_files import replacing
from slidescan.tools.prefetch import prefetch

BATCH = 64
"""Patches an engine gets at once."""

COLUMNS = ("id", "label")
"""Of Kaggle's sample_submission.csv; `label` holds P(tumour)."""


def predict(
    source: Source,
    engine: Callable[[], Engine],
    journal: Journal,
    threads: int,
    on_batch: Callable[[int], object] = lambda count: None,
) -> dict[int, Bad]:
    """Score what `journal` lacks; returns the rows that could not be read, and why.

    `engine` is built when the first batch is there. Batches begin at the same rows in every run,
    and what is unreadable leaves its place in them, so a number never depends on where a run was
    stopped.

    Raises:
        ModelError: a probability that is none.
        WriteError: the disk does not take the journal.
    """
    bad: dict[int, Bad] = {}
    todo = unfinished(journal)
    if not todo:
        return bad
    with (
        warnings.catch_warnings(),
        source.opened() as reader,
        ThreadPoolExecutor(threads, "read") as pool,
        closing(prefetch(pool, reader, todo, 2 * threads)) as read,
    ):
        # Pillow warns of tags that nobody needs, or of what it then refuses.
        warnings.filterwarnings("ignore", module="PIL")
        infer = engine()
        for rows, patches in read:
            unread = {r: p for r, p in zip(rows, patches, strict=True) if isinstance(p, Bad)}
            bad |= unread
            if len(unread) < len(rows):
                scores = _checked(infer(_stacked(patches))[:, 0, 0])
                good = [row for row in rows if row not in unread]
                journal.add(good, scores[np.array(good) - rows.start])
            on_batch(len(rows))
    return bad


def unfinished(journal: Journal) -> list[range]:
    """The batches that lack a score."""
    count = len(journal.scores)
    batches = (range(i, min(i + BATCH, count)) for i in range(0, count, BATCH))
    return [rows for rows in batches if np.isnan(journal.scores[rows]).any()]


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


def write_predictions(path: Path, scores: Mapping[str, np.float32], order: Iterable[str]) -> None:
    """CSV of id and label in this order, ids without a score left out. Raises `WriteError`.

    A probability has as many digits as tell it from every other float32.
    """
    with (
        replacing(path) as beside,
        # Names of files need not be UTF-8.
        beside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((i, str(scores[i])) for i in order if i in scores)
