"""Patches that are called wrong: by one table of predictions, or by all of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.evaluation.images import read_images
from slidescan.evaluation.scores import Scores
from slidescan.pictures import grids
from slidescan.statistics.arrays import Floats
from slidescan.statistics.mistakes import worst_mistakes
from slidescan.tools.csv_tables import write_table

TABLE, PICTURE = "mistakes.csv", "mistakes.png"

BY_FAR = 0.9
"""A probability that is further from the label makes one doubt the label, if all models agree."""


def least_wrong(tables: Sequence[Scores]) -> Scores:
    """Return the patches with the probability that is nearest to their label, of all tables.

    What is a mistake there is one in every table. The tables have the same patches in one order.
    """
    p = np.stack([scores.p for scores in tables])
    first = tables[0]
    return replace(first, p=np.where(first.labels == 1, p.max(axis=0), p.min(axis=0)))


def counts(scores: Scores, threshold: float) -> tuple[int, int]:
    """Return the number of mistakes, and of those `BY_FAR` from the label."""
    errors = _errors(scores)[_wrong(scores, threshold)]
    return len(errors), int((errors > BY_FAR).sum())


def _errors(scores: Scores) -> Floats:
    return np.abs(scores.p - scores.labels)


def _wrong(scores: Scores, threshold: float) -> NDArray[np.intp]:
    """Rows of the mistakes."""
    return np.flatnonzero((scores.p >= threshold) != (scores.labels == 1))


def write(path: Path, tables: Mapping[str, Scores], threshold: float) -> None:
    """Write a CSV of the patches that all tables call wrong, the worst first.

    Columns: id, label, error (distance of label and nearest probability), and the probability in
    each table by its name. Raises `WriteError`.
    """
    scores = least_wrong(list(tables.values()))
    errors, wrong = _errors(scores), _wrong(scores, threshold)
    rows = wrong[np.argsort(-errors[wrong], kind="stable")].tolist()
    columns = [errors.round(6).tolist(), *(each.p.tolist() for each in tables.values())]
    write_table(
        path,
        ("id", "label", "error", *tables),
        ((scores.ids[i], scores.labels[i], *(column[i] for column in columns)) for i in rows),
    )


def draw(path: Path, tables: Sequence[Scores], images: Path, threshold: float) -> list[str]:
    """Write a PNG of the worst mistakes of all tables; return the ids without an image in `images`.

    Raises `DataError` where there is no image or one cannot be read, `WriteError`.
    """
    scores = least_wrong(tables)
    rows = np.concatenate(worst_mistakes(scores.labels, scores.p, threshold=threshold)).tolist()
    pixels, missing = read_images(images, [scores.ids[i] for i in rows])
    shown = [i for i in rows if scores.ids[i] in pixels]
    by = f", made by all {len(tables)} tables" if len(tables) > 1 else ""
    grids.mistakes(
        path,
        np.array([pixels[scores.ids[i]] for i in shown], np.uint8),
        scores.labels[shown],
        scores.p[shown],
        [scores.ids[i] for i in shown],
        threshold=threshold,
        title=f"Worst mistakes at {threshold:g}{by}; the label is about the square of 32 px",
    )
    return missing
