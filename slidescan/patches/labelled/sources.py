"""List the labelled patches of a folder in three layouts, before any pixel is read.

Kaggle: `train/<id>.tif` and `train_labels.csv` with the columns id, label. Original PatchCamelyon
(Veeling et al. 2018): `camelyonpatch_level_2_split_{train,valid}_{x,y}.h5`. Own data: a folder for
each class.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slidescan.errors import DataError
from slidescan.patches.decoding import IMAGES
from slidescan.patches.labelled.defects import Defect
from slidescan.patches.labelled.hdf5 import list_hdf5
from slidescan.patches.labelled.listing import Layout, Listing, stamp
from slidescan.patches.sources import PREFIX
from slidescan.tools.csv_tables import read_table
from slidescan.tools.regular_files import read_lines

ABOUT: dict[Layout, str] = {
    "kaggle": "PatchCamelyon, Kaggle edition",
    "hdf5": "PatchCamelyon, original edition (HDF5)",
    "folders": "folder per class",
    "unlabelled": "images without labels",
}
LABELS = "train_labels.csv"
CLASSES = {"0": 0, "normal": 0, "negative": 0, "1": 1, "tumor": 1, "tumour": 1, "positive": 1}
WANTED = (
    f"known are Kaggle's layout (train/<id>.tif, {LABELS}), the HDF5 files of PatchCamelyon "
    "(camelyonpatch_level_2_split_train_x.h5, ...), or a folder for each class (0 and 1, normal "
    "and tumor, negative and positive)"
)


def list_patches(root: Path, only: Path | None = None) -> tuple[Listing, NDArray[np.intp] | None]:
    """List the patches under `root`, and the selected rows, None for all.

    `only` is a text file with an id, or a unique beginning of one, a line; blank lines and lines
    that start with # are ignored. Defects are those of the selected patches. Raises `DataError`
    if the layout is unknown.
    """
    (found,) = list_several([root], only)
    return found


def list_several(
    roots: Sequence[Path], only: Path | None = None
) -> list[tuple[Listing, NDArray[np.intp] | None]]:
    """List the patches under each of `roots`, as `list_patches` does.

    An id of `only` selects the patches of this id in every folder; a folder of which it selects
    none is left out.
    """
    listings = [_list(root) for root in roots]
    if only is None:
        for listing in listings:
            for missing in {0, 1} - set(listing.labels.tolist()):
                if not listing.defects:  # the defects say more
                    raise DataError(
                        f"{listing.root}: no patch has label {missing}; a classifier needs both"
                    )
        return [(listing, None) for listing in listings]
    lost = [{d.name: d for d in each.defects if d.kind == "missing"} for each in listings]
    known = {i for each, gone in zip(listings, lost, strict=True) for i in (*each.ids, *gone)}
    wanted = _read_ids(only, sorted(known))
    found: list[tuple[Listing, NDArray[np.intp] | None]] = []
    for listing, gone in zip(listings, lost, strict=True):
        defects = tuple(defect for name, defect in gone.items() if name in wanted)
        rows = np.flatnonzero([patch_id in wanted for patch_id in listing.ids])
        if len(rows):
            found.append((replace(listing, defects=defects), rows))
    if not found:
        raise DataError(f"{only}: names no patch that has a file; correct --ids or --data")
    return found


def _list(root: Path) -> Listing:
    readers = {"kaggle": _kaggle, "hdf5": list_hdf5, "folders": _folders}
    listing = readers[find_layout(root)](root)
    if not len(listing):
        raise DataError(f"{root}: none of its {len(listing.defects)} labelled patches has a file")
    return listing


def find_layout(root: Path) -> Layout:
    """Find the layout of a folder of labelled patches.

    Raises:
        DataError: it has none of the known layouts, or several.
    """
    found = layouts(root)
    if len(found) != 1:
        what = "several layouts at once" if found else "no patches in a known layout"
        raise DataError(f"{root}: holds {what}; {WANTED}")
    return found[0]


def layouts(root: Path) -> list[Layout]:
    """List the layouts that the names in a folder fit. Raises `DataError` if it is no folder."""
    try:
        names = {entry.name.lower(): entry.is_dir() for entry in os.scandir(root)}
    except FileNotFoundError:
        raise DataError(f"{root}: no such folder; {WANTED}") from None
    except NotADirectoryError:
        raise DataError(f"{root}: is no folder; {WANTED}") from None
    except OSError as error:
        raise DataError(f"{root}: cannot be read: {error.strerror}") from error
    found: list[Layout] = []
    if any(name.startswith(PREFIX) for name in names):
        found.append("hdf5")
    if LABELS in names or names.get("train"):
        found.append("kaggle")
    if any(folder and name in CLASSES for name, folder in names.items()):
        found.append("folders")
    return found


def images_in(folder: Path) -> dict[str, str]:
    """Size and modification time of each visible image in `folder`, by name."""
    return {
        entry.name: stamp(entry.stat())
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(IMAGES)
        and not entry.name.startswith(".")
        and entry.is_file()
    }


# --- Kaggle -----------------------------------------------------------------------------------


def _kaggle(root: Path) -> Listing:
    labels = _read_labels(root / LABELS)
    folder = root / "train"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; beside {LABELS} wanted is train/<id>.tif")
    files = images_in(folder)
    # Kaggle's files are .tif; other formats are taken only if there are no .tif files.
    if any(name.endswith(".tif") for name in files):
        files = {name: changed for name, changed in files.items() if name.endswith(".tif")}
    by_id = {_stem(name): name for name in sorted(files, reverse=True)}
    ids = sorted(labels.keys() & by_id.keys())
    missing = (
        Defect("missing", i, f"is labelled and has no file in {folder}")
        for i in sorted(labels.keys() - by_id.keys())
    )
    unlabelled = (
        Defect("unlabelled", f"train/{name}", f"is not in {LABELS}")
        for name in sorted(files)
        if _stem(name) not in labels
    )
    return Listing(
        root,
        "kaggle",
        tuple(ids),
        np.array([labels[i] for i in ids], np.int64),
        tuple(f"train/{by_id[i]}" for i in ids),
        tuple(files[by_id[i]] for i in ids),
        defects=(*missing, *unlabelled),
    )


def _read_labels(path: Path) -> dict[str, int]:
    if not path.exists():
        raise DataError(f"{path}: no such file; {WANTED}")
    labels: dict[str, int] = {}
    for line, row in read_table(path, ("id", "label")):
        patch_id, label = row["id"], row["label"]
        if not patch_id:
            raise DataError(f"{path}: line {line}: has no id")
        if label not in ("0", "1"):
            raise DataError(f"{path}: line {line}: label {label!r} is not 0 or 1")
        if labels.setdefault(patch_id, int(label)) != int(label):
            raise DataError(f"{path}: id {patch_id} stands there as 0 and as 1")
    for missing in {0, 1} - set(labels.values()):
        raise DataError(f"{path}: no patch has label {missing}; a classifier needs both")
    return labels


def _read_ids(path: Path, known: Sequence[str]) -> set[str]:
    """Select the ids that the lines of `path` name among the sorted ids `known`."""
    try:
        lines = read_lines(path)
    except (OSError, ValueError) as error:
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


# --- a folder for each class ------------------------------------------------------------------


def _folders(root: Path) -> Listing:
    found = [(name, label, stamp) for name, label, stamp in _labelled_files(root)]
    if not found:
        raise DataError(f"{root}: its folders hold no images ({', '.join(IMAGES)})")
    stems = Counter(_stem(name) for name, _, _ in found)
    rows = {
        (_stem(name) if stems[_stem(name)] == 1 else name): (label, name, stamp)
        for name, label, stamp in found
    }
    ids = tuple(sorted(rows))
    return Listing(
        root,
        "folders",
        ids,
        np.array([rows[i][0] for i in ids], np.int64),
        tuple(rows[i][1] for i in ids),
        tuple(rows[i][2] for i in ids),
    )


def _labelled_files(root: Path) -> Iterator[tuple[str, int, str]]:
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        if entry.name.lower() not in CLASSES:
            raise DataError(f"{root}: the folder {entry.name} is of no known class; {WANTED}")
        for name, changed in images_in(Path(entry.path)).items():
            yield f"{entry.name}/{name}", CLASSES[entry.name.lower()], changed


def _stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]
