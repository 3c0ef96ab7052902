"""Kaggle's layout: a table of labels and a folder of images."""

from __future__ import annotations

import csv
import hashlib
import io
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import patches
import pytest
from labelled_patches import DATA, FEW, HALF, TRAINING, VALIDATION, refused, same
from PIL import Image

from slidescan.patches.decoding import Bad
from slidescan.patches.labelled import load_data, reading
from slidescan.patches.labelled.patches import Patches

PCAM = Path(__file__).parents[3] / "configs" / "pcam.yaml"


def test_kaggles_layout_is_read_as_it_was_written(kaggle: Path) -> None:
    read = load_data(kaggle)
    same(read, DATA)
    assert read.training.ids == TRAINING.ids  # sorted: the order that training draws from
    assert read.validation.ids == VALIDATION.ids
    assert read.about == "PatchCamelyon, Kaggle edition"
    assert read.left_out == ()


def test_progress_sees_every_patch(few: Path) -> None:
    seen = []

    def progress(read: Iterator[Any], **about: Any) -> Iterator[Any]:
        seen.append((about["desc"], about["total"]))
        return read

    load_data(few, progress=progress, **HALF)
    assert seen == [("reading patches", 24)]


def test_both_sides_are_rows_of_one_mapped_file(kaggle: Path) -> None:
    read = load_data(kaggle)
    assert isinstance(read.training.stored, np.memmap)
    assert read.training.stored is read.validation.stored
    sent = pickle.dumps(read.training)
    assert len(sent) < 20_000
    np.testing.assert_array_equal(pickle.loads(sent).pixels([3, 1]), read.training.pixels([3, 1]))


@pytest.mark.parametrize("save", [{"compression": "tiff_lzw"}, {}])
def test_compressed_and_plain_tiffs_are_read_alike(save: dict[str, Any], tmp_path: Path) -> None:
    folder = patches.write(tmp_path / "pcam", FEW)
    for patch_id, pixels in zip(FEW.ids, FEW.pixels(), strict=True):
        Image.fromarray(pixels).save(folder / "train" / f"{patch_id}.tif", **save)
    same(load_data(folder, **HALF), FEW)


def test_plain_pixels_are_taken_only_where_the_name_proves_them(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(FEW.pixels(0)).save(content, "TIFF")
    path = tmp_path / f"{FEW.ids[0]}.tif"
    path.write_bytes(b"II*\0" + content.getvalue()[4:])
    np.testing.assert_array_equal(reading.read_image(str(path)), FEW.pixels(0))
    # libtiff writes the pixels behind the header; a decoder would not find the rest.
    path.write_bytes(b"II*\0\xff\xff\xff\xff" + FEW.pixels(0).tobytes() + b"tags")
    np.testing.assert_array_equal(reading.read_image(str(path)), FEW.pixels(0))
    other = path.rename(tmp_path / "other.tif")
    assert isinstance(reading.read_image(str(other)), Bad)


def test_real_patches_have_the_ids_of_their_pixels(real_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(real_data / "pcam" / "patches.zip") as packed:
        names = [name for name in packed.namelist() if name.endswith(".webp")][:200]
        (tmp_path / "train").mkdir()
        for name in names:
            (tmp_path / "train" / Path(name).name).write_bytes(packed.read(name))
    ids = {Path(name).stem for name in names}
    with (real_data / "pcam" / "train_labels.csv").open() as file:
        rows = [row for row in csv.reader(file) if row[0] in ids]
    patches.write_labels(tmp_path, rows)
    read = load_data(tmp_path)
    assert len(read.training) + len(read.validation) == 200
    patch_id, pixels = read.training.ids[0], read.training.pixels(0)
    assert hashlib.sha1(pixels.tobytes()).hexdigest() == patch_id


def test_only_the_listed_patches_are_read(few: Path, tmp_path: Path) -> None:
    (few / "train" / f"{FEW.ids[0]}.tif").unlink()
    listed = tmp_path / "ids.txt"
    listed.write_text("# some\n\n" + "\n".join([f"  {i[:12]}" for i in FEW.ids[1:]] + [FEW.ids[2]]))
    same(load_data(few, only=listed, **HALF), FEW.take(np.arange(1, 24)))


def test_an_id_that_begins_another_is_itself(tmp_path: Path) -> None:
    ids = ("a", "ab", *FEW.ids[2:])
    folder = patches.write(tmp_path / "pcam", Patches(ids, FEW.labels, FEW.stored, FEW.rows))
    (tmp_path / "ids.txt").write_text("\n".join(("a", *FEW.ids[2:])))
    read = load_data(folder, only=tmp_path / "ids.txt", **HALF)
    assert {"a", "ab"} & {*read.training.ids, *read.validation.ids} == {"a"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"# none\nxyz\nxy\n", ("line 2, 'xyz', matches 0", "(such lines: 2)")),
        (b"0\nxyz\n0\n", ("line 1, '0', matches", "instead of one", "(such lines: 3)")),
        (b"x" * 9999, ("matches 0", "correct --ids or --data")),
        (b"# nobody\n", ("names no patch", "correct --ids or --data")),
        (b"\xff\xfe", ("cannot be read",)),
        (None, ("cannot be read", "No such file")),
    ],
)
def test_a_line_that_is_not_one_patch_is_told_in_one_line(
    text: bytes | None, parts: tuple[str, ...], kaggle: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "ids.txt"
    if text:
        listed.write_bytes(text)
    message = refused(kaggle, f"{listed}: ", *parts, only=listed)
    assert len(message) < 200 + len(str(listed)) * 2


@pytest.mark.parametrize("count", [9300, 24300])
def test_the_list_of_the_shipped_models_is_whole(count: int) -> None:
    comment, *ids = PCAM.with_name(f"pcam-{count}.txt").read_text().splitlines()
    assert comment.startswith("# ")
    assert ids == sorted(set(ids))
    assert len(ids) == count
    assert sum(re.fullmatch("[0-9a-f]{40}", i) is not None for i in ids) == 9300
    assert all(re.fullmatch("[0-9a-f]{40}|train-[0-9]{7}", i) for i in ids)


ROWS = [(i, y) for i, y in zip(FEW.ids[:4], (0, 1, 0, 1), strict=True)]


def labels(rows: Sequence[tuple[object, ...]], *header: str) -> Callable[[Path], None]:
    return lambda folder: patches.write_labels(folder, rows, header or ("id", "label"))


SPOILT: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no csv": (
        lambda d: (d / "train_labels.csv").unlink(),
        ("train_labels.csv: no such file", "train/<id>.tif", "a folder for each class"),
    ),
    "no folder": (lambda d: (d / "train").rename(d / "other"), ("train: no such folder",)),
    "empty csv": (lambda d: (d / "train_labels.csv").write_text(""), ("columns", "id and label")),
    "columns": (labels([], "name", "y"), ("columns ['name', 'y']", "id and label")),
    "no rows": (labels([]), ("no patch has label",)),
    "not text": (
        lambda d: (d / "train_labels.csv").write_bytes(b"id,label\n\xff\xfe,1\n"),
        ("train_labels.csv: cannot be read",),
    ),
    "label 2": (labels([*ROWS, ("x", 2)]), ("line 6: label '2' is not 0 or 1",)),
    "label text": (labels([("x", "tumour")]), ("line 2: label 'tumour' is not 0 or 1",)),
    "no label": (labels([("x",)]), ("line 2: label None is not 0 or 1",)),
    "no id": (labels([(1,), ("x", 0)], "label", "id"), ("line 2: has no id",)),
    "contradiction": (
        labels([*ROWS, (FEW.ids[0], 1)]),
        (f"id {FEW.ids[0]} stands there as 0 and as 1",),
    ),
    "one class": (labels(ROWS[::2]), ("no patch has label 1; a classifier needs both",)),
    "no files": (labels([("x", 0), ("y", 1)]), ("none of its", "has a file")),
}


@pytest.mark.parametrize("name", SPOILT)
def test_each_fault_of_the_table_is_told_in_one_line(name: str, few: Path) -> None:
    spoil, parts = SPOILT[name]
    spoil(few)
    refused(few, str(few), *parts)


def test_a_folder_without_patches_is_told_in_one_line(tmp_path: Path) -> None:
    wanted = ("Kaggle's layout", "HDF5", "folder for each class")
    refused(tmp_path, f"{tmp_path}: holds no patches", *wanted)
    refused(tmp_path / "nowhere", "nowhere: no such folder", *wanted)
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "file: is no folder", *wanted)
    (tmp_path / "train").mkdir()
    (tmp_path / "normal").mkdir()
    refused(tmp_path, "several layouts", *wanted)


def test_labels_saved_by_a_spreadsheet_are_read(few: Path) -> None:
    table = few / "train_labels.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())  # a byte order mark
    assert len(load_data(few, **HALF).training)


def test_an_id_repeated_without_contradiction_counts_once(few: Path) -> None:
    rows = [*zip(FEW.ids, FEW.labels.tolist(), strict=True)]
    patches.write_labels(few, [*rows, rows[0]])
    same(load_data(few, **HALF), FEW)
