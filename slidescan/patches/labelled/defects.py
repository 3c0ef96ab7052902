"""Defects of a folder of patches: all are found, one line names examples, a table lists them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

from slidescan.errors import DataError
from slidescan.tools.csv_tables import write_table

Kind = Literal[
    "missing",
    "unlabelled",
    "unreadable",
    "size",
    "pixels",
    "duplicate",
    "contradiction",
    "held-out",
    "near-copy",
]
MEANING: Mapping[Kind, str] = {
    "missing": "labelled, and there is no such file",
    "unlabelled": "a file that has no label",
    "unreadable": "not an image that can be read",
    "size": "not 96 x 96 px",
    "pixels": "not the pixels whose SHA-1 the name is",
    "duplicate": "the same pixels as a patch before it",
    "contradiction": "the same pixels as a patch with the other label",
    "held-out": "the same pixels as a validation patch",
    "near-copy": "the same picture as a validation patch, compressed otherwise",
}


@dataclass(frozen=True, slots=True)
class Defect:
    """One patch that training cannot use as it is."""

    kind: Kind
    name: str
    """The id of the patch, or the path, below the data's folder, of a file without a patch."""
    detail: str


def repeated(ids: Sequence[str], labels: Sequence[int], digests: Sequence[str]) -> list[Defect]:
    """Find patches with equal pixels: all but the first, or all if their labels differ.

    The three lists have one entry a patch; `digests` are those of the pixels.
    """
    equal: defaultdict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        equal[digest].append(row)
    defects: list[Defect] = []
    for rows in equal.values():
        first, *others = sorted(rows, key=lambda row: ids[row])
        if len({labels[row] for row in rows}) == 1:
            defects += [Defect("duplicate", ids[i], f"is {ids[first]} again") for i in others]
        else:
            defects += [_contradicting(row, rows, ids, labels) for row in rows]
    return defects


def _contradicting(
    row: int, rows: Sequence[int], ids: Sequence[str], labels: Sequence[int]
) -> Defect:
    other = next(i for i in rows if labels[i] != labels[row])
    detail = f"is labelled {labels[row]}, and {ids[other]}, the same pixels, {labels[other]}"
    return Defect("contradiction", ids[row], detail)


def write_defects(path: Path, defects: Sequence[Defect]) -> None:
    """Write the defects as CSV: kind, name, detail. Raises `WriteError`."""
    write_table(path, ("kind", "name", "detail"), map(astuple, defects))


def counted(defects: Sequence[Defect]) -> str:
    """Count the defects by kind, e.g. "2 missing, 1 size"."""
    return ", ".join(f"{n} {kind}" for kind, n in Counter(d.kind for d in defects).items())


def refusal(root: Path, defects: Sequence[Defect], report: Path | None) -> DataError:
    """One line about all defects, with an example of each of the first two kinds."""
    examples = list({d.kind: d for d in reversed(defects)}.values())[::-1][:2]
    told = "; ".join(f"{d.name} {d.detail}" for d in examples)
    where = f"all are listed in {report}; " if report else ""
    text = (
        f"{root}: {len(defects)} defects ({counted(defects)}), e.g. {told}; {where}"
        "correct them, or pass --skip-bad to leave them out"
    )
    return DataError(" ".join(text.split()))
