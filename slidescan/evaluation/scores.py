"""Read predictions and labels of patches from CSV tables, check them and join them by id."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import DataError
from slidescan.tools.csv_tables import read_table

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scores:
    """Patches with a label and a probability, in the order of the predictions."""

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    p: NDArray[np.float64]
    slides: tuple[str, ...] | None = None
    """The slide of each patch."""

    def __len__(self) -> int:
        return len(self.ids)

    def ranked(self) -> Scores:
        """Return the patches by falling probability, which is quicker to evaluate."""
        return self.taken(np.argsort(-self.p, kind="stable"))

    def taken(self, rows: NDArray[np.intp]) -> Scores:
        """Return the patches at these rows, in their order."""
        order = rows.tolist()
        slides = None if self.slides is None else tuple(self.slides[i] for i in order)
        ids = tuple(self.ids[i] for i in order)
        return Scores(ids, self.labels[order], self.p[order], slides)

    def groups(self) -> tuple[NDArray[np.intp], int]:
        """Return the unit of resampling of each patch, (N,), and the number of units."""
        if self.slides is None:
            return np.arange(len(self)), len(self)
        names, of = np.unique(self.slides, return_inverse=True)
        return of, len(names)


def read_scores(
    predictions: Sequence[Path], labels: Path, groups: Path | None = None, *, common: bool = False
) -> list[Scores]:
    """Return the scores of each table of `predictions`, for the same patches in the same order.

    Tables have the columns id,label: probabilities, and 0 or 1 in `labels`; `groups` has id,slide.
    `common` takes the ids that all tables have; without it they must have the same.

    Raises:
        DataError: a table is not as described, has an id twice, or ids do not match.
    """
    known = _read_labels(labels, predictions)
    tables = [
        _read(path, "label", _probability, "not a probability from 0 to 1") for path in predictions
    ]
    ids = [i for i in tables[0] if i in known and all(i in other for other in tables[1:])]
    if not ids:
        raise DataError(
            f"{' and '.join(map(str, (*predictions, labels)))} have no id in common, e.g. "
            f"{' and '.join([*map(_example, tables), _example(known)])}; are they of the same "
            "patches?"
        )
    if not common:
        for path, table in zip(predictions, tables, strict=True):
            _check_same(path, table, labels, known, len(ids))
    slides = None if groups is None else _slides(groups, ids)
    truth = np.array([known[i] for i in ids], np.int64)
    return [
        Scores(tuple(ids), truth, np.array([table[i] for i in ids]), slides) for table in tables
    ]


def short_names(paths: Sequence[Path]) -> list[str]:
    """A name to print for each table: its file's name where these differ, else the path.

    Raises `DataError` where a table is given twice.
    """
    twice = [path for i, path in enumerate(paths) if path in paths[:i]]
    if twice:
        raise DataError(f"{twice[0]}: given twice; name each table of predictions once")
    files = [path.name for path in paths]
    return files if len(set(files)) == len(files) else list(map(str, paths))


def _read_labels(path: Path, predictions: Sequence[Path]) -> dict[str, int]:
    """Read the labels; where they look like predictions, the message names the order."""
    try:
        return _read(path, "label", _label, "not 0 or 1")
    except DataError as error:
        others = [other for other in predictions if _fits(other, _label)]
        if not others or not _fits(path, _probability):
            raise
        raise DataError(
            f"{path} holds probabilities and {others[0]} holds 0 and 1: the labels are the last "
            "argument, after the predictions"
        ) from error


def _fits(path: Path, convert: Callable[[str], float]) -> bool:
    """Return whether a table could be read with these values."""
    try:
        _read(path, "label", convert, "")
    except DataError:
        return False
    return True


def _slides(path: Path, ids: Sequence[str]) -> tuple[str, ...]:
    slides = _read(path, "slide", str, "no slide")
    without = [i for i in ids if i not in slides]
    if without:
        raise DataError(
            f"{path}: {len(without)} of {len(ids)} patches have no slide, e.g. {without[0]}; "
            "add them to the table"
        )
    return tuple(slides[i] for i in ids)


def _check_same(
    predictions: Path, predicted: Iterable[str], labels: Path, known: Iterable[str], common: int
) -> None:
    ours, theirs = set(predicted), set(known)
    sides = (("predictions", "label", ours - theirs), ("labels", "prediction", theirs - ours))
    found = [
        f"{len(rest)} {of} have no {lacking}, e.g. {min(rest)}"
        for of, lacking, rest in sides
        if rest
    ]
    if found:
        raise DataError(
            f"{predictions} and {labels}: {'; '.join(found)}; --common evaluates the {common} "
            "patches that all tables have"
        )


def _read(path: Path, column: str, convert: Callable[[str], T], wrong: str) -> dict[str, T]:
    """Read a column by id. Raises `DataError` with the number of bad rows and the first one."""
    values: dict[str, T] = {}
    twice: list[str] = []
    bad: list[str] = []
    for line, row in read_table(path, ("id", column)):
        key, value = (row["id"] or "").strip(), (row[column] or "").strip()
        try:
            if not key or not value:
                raise ValueError
            found = convert(value)
        except ValueError:
            bad.append(f"line {line}: {key or 'no id'}, {value or 'nothing'!r}")
            continue
        if key in values:
            twice.append(f"line {line}: {key}")
        values[key] = found
    _refuse(path, bad, f"rows whose {column} is {wrong}, or missing", "correct them")
    _refuse(path, twice, "repeated ids", "keep one row of each")
    if not values:
        raise DataError(f"{path}: has no rows below its header; name another table")
    return values


def _refuse(path: Path, found: Sequence[str], what: str, remedy: str) -> None:
    if found:
        raise DataError(f"{path}: {len(found)} {what}, e.g. {found[0]}; {remedy}")


def _probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:  # NaN is not
        raise ValueError
    return value


def _label(text: str) -> int:
    value = float(text)
    if value not in (0, 1):
        raise ValueError
    return int(value)


def _example(values: Iterable[str]) -> str:
    return next(iter(values))
