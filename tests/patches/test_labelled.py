"""Data: layouts, defects, the cache, the split, and `slidescan data`."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import patches
import pytest
from click.testing import CliRunner
from PIL import Image
from waiting import wait_until

from slidescan.cli import main
from slidescan.errors import DataError, SlidescanError, WriteError
from slidescan.patches.decoding import Bad
from slidescan.patches.labelled import Data, load_data, reading, splits, write_split
from slidescan.patches.labelled.patches import Patches
from slidescan.patches.labelled.splits import ids_sha256, in_validation
from slidescan.patches.labelled.summary import measure
from slidescan.tools import atomic_files

PCAM = Path(__file__).parents[2] / "configs" / "pcam.yaml"
DATA = patches.make(120)
TRAINING, VALIDATION = patches.split(DATA)
FEW = patches.make(24)
HALF = {"validation": 0.5}
"""Leaves both labels on both sides of `FEW`."""


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return patches.write(tmp_path / "pcam", FEW)


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`DATA` on disk, read-only by agreement."""
    return patches.write(tmp_path_factory.mktemp("data") / "pcam", DATA)


def refused(root: Path, *parts: str, **options: Any) -> str:
    """That loading says these parts in one line."""
    with pytest.raises(SlidescanError) as error:
        load_data(root, **HALF | options)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


def same(read: Data, made: Patches) -> None:
    """That ids, labels and pixels of both sides are those of `made`."""
    ids = read.training.ids + read.validation.ids
    order = np.array([made.ids.index(i) for i in ids])
    both = np.concatenate([read.training.pixels(), read.validation.pixels()])
    labels = np.concatenate([read.training.labels, read.validation.labels])
    assert sorted(ids) == sorted(made.ids)
    np.testing.assert_array_equal(both, made.pixels(order))
    np.testing.assert_array_equal(labels, made.labels[order])
    assert (both.dtype, labels.dtype) == (np.uint8, np.int64)


def never(*_: object) -> None:
    pytest.fail("the patches were read again")


# --- Kaggle's layout ------------------------------------------------------------------------


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


# --- defects --------------------------------------------------------------------------------


def tif(folder: Path, row: int) -> Path:
    return folder / "train" / f"{FEW.ids[row]}.tif"


def spoil(folder: Path) -> dict[tuple[str, str], str]:
    """Every kind of defect in a folder of `FEW`; what is to be said of each."""
    tif(folder, 0).unlink()
    tif(folder, 1).write_text("<html>")
    tif(folder, 2).write_bytes(tif(folder, 2).read_bytes()[:5000])
    patches.save_patch(folder, FEW.ids[3], np.zeros((50, 96, 3), np.uint8))
    patches.save_patch(folder, FEW.ids[4], 255 - FEW.pixels(4))
    Image.fromarray(np.zeros((96, 96), np.uint16)).save(tif(folder, 5))
    patches.save_patch(folder, "stranger", FEW.pixels(0))
    (folder / "train" / "notes.txt").touch()
    (folder / "train" / "._hidden.tif").touch()
    patches.save_patch(folder, "same", FEW.pixels(6))
    patches.save_patch(folder, "opposite", FEW.pixels(8))
    rows = [*zip(FEW.ids, FEW.labels.tolist(), strict=True), ("same", 0), ("opposite", 1)]
    patches.write_labels(folder, rows)
    return {
        ("missing", FEW.ids[0]): "is labelled and has no file",
        ("unreadable", FEW.ids[1]): "not a readable image: cannot identify",
        ("unreadable", FEW.ids[2]): "not a readable image",
        ("size", FEW.ids[3]): "is 96 x 50 px, a patch has 96 x 96",
        ("pixels", FEW.ids[4]): "other pixels than those whose SHA-1 its name is",
        ("unreadable", FEW.ids[5]): "holds I;16 pixels, not 8-bit RGB",
        ("unlabelled", "train/stranger.tif"): "is not in train_labels.csv",
        ("duplicate", "same"): f"is {FEW.ids[6]} again",
        ("contradiction", FEW.ids[8]): "is labelled 0, and opposite, the same pixels, 1",
        ("contradiction", "opposite"): f"is labelled 1, and {FEW.ids[8]}, the same pixels, 0",
    }


def test_all_defects_are_told_at_once(few: Path, tmp_path: Path) -> None:
    expected = spoil(few)
    report = tmp_path / "defects.csv"
    message = refused(
        few,
        "10 defects (1 missing, 1 unlabelled, 3 unreadable, 1 size, 1 pixels,",
        f"e.g. {FEW.ids[0]} is labelled and has no file",
        f"all are listed in {report}; correct them, or pass --skip-bad",
        report=report,
    )
    assert len(message) < 800
    with report.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["kind"], row["name"]) for row in rows} == expected.keys()
    for row in rows:
        assert expected[row["kind"], row["name"]] in row["detail"]


def test_what_is_wrong_is_left_out_where_asked(few: Path, tmp_path: Path) -> None:
    expected = spoil(few)
    report = tmp_path / "defects.csv"
    read = load_data(few, skip_bad=True, report=report, **HALF)
    left = [row for row in range(24) if row not in (0, 1, 2, 3, 4, 5, 8)]
    same(read, FEW.take(np.array(left)))
    assert {(defect.kind, defect.name) for defect in read.left_out} == expected.keys()
    assert report.read_text().count("\n") == 1 + len(expected)


def test_defects_of_others_than_the_listed_do_not_matter(few: Path, tmp_path: Path) -> None:
    spoil(few)
    good = [FEW.ids[row] for row in range(24) if row not in range(6)]
    (tmp_path / "ids.txt").write_text("\n".join(good))
    read = load_data(few, only=tmp_path / "ids.txt", **HALF)
    assert sorted(read.training.ids + read.validation.ids) == sorted(good)
    (tmp_path / "ids.txt").write_text("\n".join([*good, "same", FEW.ids[0]]))
    refused(few, "2 defects (1 missing, 1 duplicate)", only=tmp_path / "ids.txt")


def test_data_without_defects_leave_no_report(few: Path, tmp_path: Path) -> None:
    load_data(few, report=tmp_path / "defects.csv", **HALF)
    assert not (tmp_path / "defects.csv").exists()


def test_hashes_that_are_no_sha1_of_the_pixels_are_ids_like_others(tmp_path: Path) -> None:
    ids = tuple(hashlib.sha1(i.encode()).hexdigest() for i in FEW.ids)
    made = Patches(ids, FEW.labels, FEW.stored, FEW.rows)
    same(load_data(patches.write(tmp_path / "pcam", made), **HALF), made)


# --- a folder for each class ----------------------------------------------------------------


@pytest.mark.parametrize("classes", [("0", "1"), ("Normal", "TUMOR"), ("negative", "positive")])
def test_a_folder_for_each_class_is_read(classes: tuple[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "own"
    patches.write_folders(folder, FEW, classes, (".png", ".TIF", ".bmp", ".webp"))
    (folder / ".hidden").mkdir()
    read = load_data(folder, **HALF)
    same(read, FEW)
    assert read.about == "folder per class"


def test_files_of_one_name_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    ids = (*("a", "a", "b", "b"), *FEW.ids[4:])
    folder = patches.write_folders(
        tmp_path, Patches(ids, FEW.labels, FEW.stored, FEW.rows), ("normal", "tumour")
    )
    read = load_data(folder, **HALF)
    expected = {"normal/a.png", "tumour/a.png", "normal/b.png", "tumour/b.png", *FEW.ids[4:]}
    assert {*read.training.ids, *read.validation.ids} == expected


def test_another_class_or_no_image_is_refused(tmp_path: Path) -> None:
    for name in "0", "1":
        (tmp_path / name).mkdir()
    refused(tmp_path, "its folders hold no images", ".png")
    patches.write_folders(tmp_path, FEW.take(np.arange(0, 24, 2)))
    refused(tmp_path, "no patch has label 1")
    (tmp_path / "2").mkdir()
    refused(tmp_path, "the folder 2 is of no known class", "normal and tumor")


# --- the original edition -------------------------------------------------------------------


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return patches.write_hdf5(tmp_path / "hdf5", TRAINING, VALIDATION, (7, 48, 96, 1))


def h5(folder: Path, name: str) -> Path:
    return folder / f"camelyonpatch_level_2_split_{name}.h5"


def test_the_original_files_keep_their_split(original: Path) -> None:
    read = load_data(original, validation=0.7)  # the share does not apply
    assert read.about == "PatchCamelyon, original edition (HDF5)"
    assert read.split.startswith("the official split of PatchCamelyon: train and valid")
    for part, made, name in (
        (read.training, TRAINING, "train"),
        (read.validation, VALIDATION, "valid"),
    ):
        assert part.ids[:2] == (f"{name}-0000000", f"{name}-0000001")
        np.testing.assert_array_equal(part.pixels(), made.pixels())
        np.testing.assert_array_equal(part.labels, made.labels)


def test_listed_patches_of_the_original_files(original: Path, tmp_path: Path) -> None:
    rows = np.array([1, 2, 50, 99])
    listed = tmp_path / "ids.txt"
    ids = [f"train-{row:07d}" for row in rows] + [f"valid-{row:07d}" for row in range(9)]
    listed.write_text("\n".join(ids))
    read = load_data(original, only=listed)
    np.testing.assert_array_equal(read.training.pixels(), TRAINING.pixels(rows))
    np.testing.assert_array_equal(read.validation.pixels(), VALIDATION.pixels(np.arange(9)))


def test_copies_in_the_original_files_are_no_defect(tmp_path: Path) -> None:
    # By construction of the edition; the last two are of validation too.
    rows = np.array([*range(20), 3])
    held = FEW.take(np.array([18, 19, 20, 21]))
    folder = patches.write_hdf5(tmp_path / "hdf5", FEW.take(rows), held)
    told: list[str] = []
    read = load_data(folder, say=told.append)
    assert (len(read.training), len(read.validation)) == (21, 4)
    assert [line for line in told if "3 patches have the pixels of another" in line]
    read = load_data(folder, skip_bad=True)
    assert (len(read.training), len(read.validation)) == (19, 4)
    assert [d.name for d in read.left_out] == ["train-0000018", "train-0000019"]


def test_original_files_that_are_missing_or_packed_are_named(original: Path) -> None:
    h5(original, "valid_x").rename(f"{h5(original, 'valid_x')}.gz")
    refused(original, "split_valid_x.h5 missing", f"gunzip {original}/*.h5.gz")
    h5(original, "train_y").unlink()
    Path(f"{h5(original, 'valid_x')}.gz").unlink()
    message = refused(original, "split_train_y.h5", "split_valid_x.h5 missing; put them there")
    assert "train_x" not in message


def test_original_files_have_a_split_of_their_own(original: Path, tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("id,slide\n")
    refused(original, "official split", "leave --groups out", groups=tmp_path / "groups.csv")


def test_original_files_that_are_none_are_refused(original: Path) -> None:
    import h5py

    def put(name: str, key: str, values: Any) -> None:
        with h5py.File(h5(original, name), "w") as file:
            file[key] = values

    put("valid_y", "y", np.full(len(VALIDATION), 2))
    refused(original, "valid_y.h5: label 2 is not 0 or 1")
    put("valid_y", "y", np.zeros(3))
    refused(original, f"valid_y.h5: 3 labels for the {len(VALIDATION)} patches")
    put("valid_y", "labels", np.zeros(3))
    refused(original, "valid_y.h5: has no dataset y; it has labels")
    put("train_x", "x", np.zeros((4, 32, 32, 3), np.uint8))
    refused(original, "train_x.h5: x is uint8 (4, 32, 32, 3), wanted is uint8 (N, 96, 96, 3)")
    h5(original, "train_x").write_text("<html>")
    refused(original, "train_x.h5: cannot be read")


def test_damage_within_an_original_file_costs_its_patches_alone(original: Path) -> None:
    path = h5(original, "train_x")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    path.write_bytes(content)
    read = load_data(original, skip_bad=True)
    assert 0 < len(read.left_out) <= 14
    assert {defect.kind for defect in read.left_out} == {"unreadable"}
    rows = np.array([int(i[-7:]) for i in read.training.ids])
    assert len(rows) == len(TRAINING) - len(read.left_out)
    np.testing.assert_array_equal(read.training.pixels(), TRAINING.pixels(rows))


# --- the cache ------------------------------------------------------------------------------


def cached(folder: Path) -> Path:
    return folder / ".slidescan" / "patches.npy"


def test_patches_are_read_once(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_data(few, **HALF)
    monkeypatch.setattr(reading, "copy_all", never)
    told: list[str] = []
    again = load_data(few, say=told.append, **HALF)
    same(again, FEW)
    assert (again.fingerprint, told) == (first.fingerprint, [])
    assert sorted(p.name for p in cached(few).parent.iterdir()) == ["patches.json", "patches.npy"]


def test_defects_are_remembered(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = spoil(few)
    first = load_data(few, skip_bad=True, **HALF)
    monkeypatch.setattr(reading, "copy_all", never)
    assert load_data(few, skip_bad=True, **HALF).left_out == first.left_out
    assert len(first.left_out) == len(expected)


def test_other_labels_need_no_other_cache(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_data(few, **HALF)
    monkeypatch.setattr(reading, "copy_all", never)
    rows = [(i, 1 - y) for i, y in zip(FEW.ids, FEW.labels.tolist(), strict=True)]
    patches.write_labels(few, rows)
    again = load_data(few, **HALF)
    np.testing.assert_array_equal(again.training.labels, 1 - first.training.labels)
    assert again.fingerprint != first.fingerprint


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def touch(path: Path) -> None:
    os.utime(path.parents[1] / "train" / f"{FEW.ids[0]}.tif", ns=(1, 1))


def edit(path: Path, **changes: object) -> None:
    index = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(index | changes))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (touch, "the patches' files have changed since"),
        (flip, "damaged, its pixels have changed"),
        (lambda path: os.truncate(path, 5000), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.with_suffix(".json").write_text("{"), "damaged"),
        (lambda path: edit(path, version=2), "damaged"),
        (lambda path: edit(path, digests=[]), "damaged"),
        (lambda path: np.save(path, np.zeros(9)), "damaged"),
        (lambda path: path.write_bytes(pickle.dumps(["no", "arrays"])), "damaged"),
    ],
)
def test_a_cache_that_is_not_right_is_built_anew(
    spoil: Callable[[Path], object], told: str, few: Path
) -> None:
    load_data(few, **HALF)
    path = cached(few)
    spoil(path)
    said: list[str] = []
    same(load_data(few, say=said.append, **HALF), FEW)
    assert said[0].startswith(f"{path}: {told}")
    assert said[0].endswith("building it anew")
    assert "building the cache of 24 patches" in said[1]
    said.clear()
    same(load_data(few, say=said.append, **HALF), FEW)
    assert said == []


def test_many_patches_are_read_by_processes(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FEW", 0)
    same(load_data(few, **HALF), FEW)


def test_a_cache_of_all_serves_some(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text("\n".join(FEW.ids[4:]))
    alone = load_data(few, only=listed, **HALF)
    assert alone.training.stored.shape == (20, 96, 96, 3)  # nobody reads the rest for it
    assert not cached(few).exists()
    load_data(few, **HALF)
    monkeypatch.setattr(reading, "copy_all", never)
    some = load_data(few, only=listed, **HALF)
    assert some.training.stored.shape == (24, 96, 96, 3)
    assert some.fingerprint == alone.fingerprint
    same(some, FEW.take(np.arange(4, 24)))


def test_a_cache_goes_where_it_is_told(few: Path, tmp_path: Path) -> None:
    other = patches.write(tmp_path / "other" / "pcam", DATA)
    for folder, made in ((few, FEW), (other, DATA)) * 2:
        same(load_data(folder, cache=tmp_path / "cache", **HALF), made)
        assert not (folder / ".slidescan").exists()
    assert len(list((tmp_path / "cache").glob("pcam-*/patches.npy"))) == 2


def test_a_folder_that_cannot_be_written_has_its_cache_elsewhere(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != few and access(path, mode))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    load_data(few, **HALF)
    assert not (few / ".slidescan").exists()
    (path,) = (tmp_path / "home" / "slidescan").glob("pcam-*/patches.npy")
    monkeypatch.setattr(reading, "copy_all", never)
    assert load_data(few, **HALF).training.stored.filename == path
    # One that came with the folder is taken although nobody could write it.
    path.parent.rename(few / ".slidescan")
    assert load_data(few, **HALF).training.stored.filename == cached(few)


def test_too_little_room_is_told_before_anything_is_written(
    few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 1000}))
    refused(few, "the cache needs 0.0 GB, 0.0 GB are free", "choose another folder with --cache")
    assert list(cached(few).parent.iterdir()) == []


def test_a_cache_folder_that_cannot_be_made_is_told(few: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(few, "cannot be made", "--cache", cache=tmp_path / "file" / "cache")


def test_a_full_disk_is_told_in_one_line(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
        with pytest.raises(WriteError) as error:
            load_data(few, **HALF)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "\n" not in str(error.value)
    assert "disk full" in str(error.value)
    assert list(cached(few).parent.iterdir()) == []


@pytest.mark.parametrize("built", [True, False])
def test_two_that_build_at_once_wait_for_each_other(
    built: bool, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if built:
        load_data(few, **HALF)
        finished = cached(few).parent.rename(tmp_path / "finished")
        monkeypatch.setattr(reading, "copy_all", never)
    cached(few).parent.mkdir()
    held = atomic_files.lock(cached(few))
    told: list[str] = []
    read: list[Data] = []
    second = threading.Thread(
        target=lambda: read.append(load_data(few, say=told.append, **HALF)), daemon=True
    )
    second.start()
    assert wait_until(lambda: told)
    assert told == [f"{cached(few)}: another process is building this cache; waiting for it"]
    if built:  # by the one that holds the lock
        for path in finished.iterdir():
            path.rename(cached(few).parent / path.name)
    atomic_files.release(held)
    second.join(60)
    same(read[0], FEW)
    assert len(told) == (1 if built else 2)


KILLED = """
import os, signal, sys
from pathlib import Path
from slidescan.patches.labelled import reading
from slidescan.patches.labelled import load_data

reading.FEW = 0
at, root = sys.argv[1:]
replace = Path.replace
def dying(self, target):
    if target.suffix == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
def progress(entries, **_):
    for entry in entries:
        if at == "reading":
            os.kill(os.getpid(), signal.SIGKILL)
        yield entry
Path.replace = dying
if __name__ == "__main__":
    load_data(Path(root), progress=progress)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("at", ["reading", ".npy", ".json"])
def test_a_builder_that_is_killed_leaves_nothing_that_looks_whole(
    at: str, few: Path, tmp_path: Path
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    killed = subprocess.run(
        [sys.executable, "-W", "error", script, at, few],
        capture_output=True,  # until every process that writes to it has ended
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stderr == ""
    assert any(path.name.startswith(".patches-") for path in cached(few).parent.iterdir())
    told: list[str] = []
    same(load_data(few, say=told.append, **HALF), FEW)
    assert len(told) == 1
    assert "building the cache" in told[0]
    left = sorted(path.name for path in cached(few).parent.iterdir())
    assert left == ["patches.json", "patches.npy"]


# --- the split ------------------------------------------------------------------------------

# Literals: whoever moves the split makes every published figure meaningless. Real ids.
HELD_OUT = {
    "0000d563d5cfafc4e68acb7c9829258a298d9b6a": False,
    "0000da768d06b879e5754c43e2298ce48726f722": False,
    "000d4bcc9d239e8304890ffd764794e93504e475": True,
    "001d87233af8bac62b3fbf95da8a92ebff1511be": False,
    "001ee9679b82132638bd63fb4872a5132f27b8b0": True,
}


def test_the_split_is_golden() -> None:
    assert {i: in_validation(i) for i in HELD_OUT} == HELD_OUT
    assert sum(in_validation(str(i)) for i in range(10_000)) == 1018
    assert sum(in_validation(str(i), 0.5) for i in range(10_000)) == 5058


def test_the_split_depends_on_each_id_alone(kaggle: Path, tmp_path: Path) -> None:
    held_out = {i for i in DATA.ids if in_validation(i)}
    fewer = DATA.take(np.arange(0, 110))
    read = load_data(patches.write(tmp_path / "fewer", fewer))
    assert set(load_data(kaggle).validation.ids) == held_out
    assert set(read.validation.ids) == held_out & set(fewer.ids)


def test_the_share_is_as_asked(kaggle: Path) -> None:
    read = load_data(kaggle, validation=0.4)
    assert set(read.validation.ids) == {i for i in DATA.ids if in_validation(i, 0.4)}
    assert read.split.startswith("validation: SHA-256(id) / 2**256 < 0.4; training: the rest")


@pytest.mark.parametrize("side", ["training", "validation"])
def test_a_side_of_the_split_with_one_label_is_refused(
    side: str, kaggle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pcam"
    folder.mkdir()
    (folder / "train").symlink_to(kaggle / "train")
    there = [in_validation(i) == (side == "validation") for i in DATA.ids]
    rows = zip(DATA.ids, np.where(there, 1, DATA.labels).tolist(), strict=True)
    patches.write_labels(folder, rows)
    message = refused(folder, f"{side}: its ", "both labels", "add more patches", validation=0.1)
    assert str(sum(there)) in message


def test_an_uneven_split_is_refused() -> None:
    ids = [str(i) for i in range(4000)]
    held_out = np.array([in_validation(i) for i in ids])
    rng = np.random.default_rng(0)
    even = rng.random(4000) < 0.4
    np.testing.assert_array_equal(splits.by_id(ids, even.astype(int), 0.1), held_out)
    uneven = rng.random(4000) < np.where(held_out, 0.6, 0.4)
    with pytest.raises(DataError, match=r"leaves 4\d\.\d% tumour in training and [56]\d\.\d%"):
        splits.by_id(ids, uneven.astype(int), 0.1)


def groups(path: Path, slides: Sequence[object]) -> Path:
    rows = zip(DATA.ids, slides, strict=False)
    path.write_text("id,slide\n" + "".join(f"{i},{slide}\n" for i, slide in rows))
    return path


def test_a_slide_stays_on_one_side(kaggle: Path, tmp_path: Path) -> None:
    slides = dict(zip(DATA.ids, [f"slide {i // 8}" for i in range(120)], strict=True))
    table = groups(tmp_path / "groups.csv", [slides[i] for i in DATA.ids])
    read = load_data(kaggle, groups=table)
    same(read, DATA)
    held = {slides[i] for i in read.validation.ids}
    assert not held & {slides[i] for i in read.training.ids}
    # 12 patches are asked for, slides have 8: two, the first by the SHA-256 of their names.
    first = sorted(set(slides.values()), key=lambda s: hashlib.sha256(s.encode()).digest())
    assert held == set(first[:2])
    assert read.split.startswith("validation: 2 of 15 slides, whole")
    assert read.fingerprint != load_data(kaggle).fingerprint


def test_slides_are_taken_until_both_labels_are_there(kaggle: Path, tmp_path: Path) -> None:
    slides = [f"{'negative' if i % 2 == 0 else 'positive'} {i % 10}" for i in range(120)]
    read = load_data(kaggle, groups=groups(tmp_path / "groups.csv", slides))
    assert set(read.validation.labels) == set(read.training.labels) == {0, 1}


def test_groups_that_do_not_fit_are_refused(kaggle: Path, tmp_path: Path) -> None:
    table = groups(tmp_path / "groups.csv", ["one"] * 120)
    refused(kaggle, "training: its 0 patches", "--groups names 1 slides", groups=table)
    groups(table, ["a", "b"] * 50)
    refused(kaggle, f"20 of 120 patches have no slide, e.g. {DATA.ids[100]}"[:34], groups=table)
    table.write_text("id,slide\na,x\na,y\n")
    refused(kaggle, f"{table}: line 3: id a is of slide y, and before of x", groups=table)
    table.write_text("id,slide\na,\n")
    refused(kaggle, f"{table}: line 2: has no slide", groups=table)
    table.write_text("id,case\n")
    refused(kaggle, f"{table}: has the columns ['id', 'case'], needs id and slide", groups=table)
    refused(kaggle, "cannot be read", groups=tmp_path / "none.csv")


def test_the_split_is_written(kaggle: Path, tmp_path: Path) -> None:
    write_split(tmp_path / "split.csv", load_data(kaggle))
    with (tmp_path / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    label = dict(zip(DATA.ids, DATA.labels.tolist(), strict=True))
    assert {row["id"]: row["split"] for row in rows} == {
        i: "validation" if in_validation(i) else "training" for i in DATA.ids
    }
    assert all(int(row["label"]) == label[row["id"]] for row in rows)


def test_the_fingerprint_is_of_what_is_used(kaggle: Path, tmp_path: Path) -> None:
    first = load_data(kaggle).fingerprint
    moved = patches.write(tmp_path / "moved", DATA)
    assert load_data(moved).fingerprint == first
    assert load_data(moved, validation=0.5).fingerprint != first
    # Another id of the same pixels, and other pixels of the same id.
    own = tuple(f"own-{i}" for i in DATA.ids)
    renamed = patches.write(tmp_path / "own", Patches(own, DATA.labels, DATA.stored, DATA.rows))
    second = load_data(renamed).fingerprint
    patches.save_patch(renamed, own[0], 255 - DATA.pixels(0))
    assert len({first, second, load_data(renamed).fingerprint}) == 3


def test_ids_have_one_digest_in_any_order() -> None:
    assert ids_sha256(["b", "a"]) == hashlib.sha256(b"a\nb\n").hexdigest()
    assert ids_sha256(["ab"]) != ids_sha256(["a", "b"])


# --- slidescan data -------------------------------------------------------------------------


def slidescan_data(*args: object) -> Any:
    return CliRunner().invoke(main, ["data", *map(str, args)])


def test_the_command_shows_what_is_there(kaggle: Path, tmp_path: Path) -> None:
    out = tmp_path / "data.png"
    result = slidescan_data(kaggle, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""  # no terminal, no bar
    for part in (
        f"{kaggle}: PatchCamelyon, Kaggle edition",
        "patches     120: 60 normal, 60 tumour (50.0%)",
        f"training    {len(TRAINING)}: ",
        f"validation  {len(VALIDATION)}: ",
        "split       validation: SHA-256(id)",
        "sizes       120 of 96 x 96 px",
        "colours     mean [0.",
        "defects     none",
        f"cache       {cached(kaggle)}",
    ):
        assert part in result.stdout
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.width > 900


def test_the_command_describes_images_without_labels(tmp_path: Path) -> None:
    root = tmp_path / "images"
    patches.write(tmp_path / "pcam", patches.make(6)).joinpath("train").rename(root)
    first = min(root.iterdir())
    shutil.copy(first, root / "again.tif")
    (root / "inner").mkdir()
    Image.new("RGB", (64, 96)).save(root / "inner" / "small.png")
    out = tmp_path / "data.png"
    result = slidescan_data(root, "--out", out, "--report", tmp_path / "defects.csv")
    assert result.exit_code == 0, result.output
    for part in (
        f"{root}: images without labels",
        "patches     8\n",
        "labels      none: slidescan predict scores them",
        "sizes       7 of 96 x 96 px, 1 of 64 x 96 px",
        "defects     1 size, 1 duplicate",
    ):
        assert part in result.stdout
    assert out.exists()
    assert "inner/small.png" in (tmp_path / "defects.csv").read_text()
    listed = slidescan_data(root, "--out", out, "--groups", tmp_path / "groups.csv")
    assert listed.exit_code == 1
    assert "leave out --ids and --groups" in listed.stderr


def test_the_command_fails_where_training_would(few: Path, tmp_path: Path) -> None:
    spoil(few)
    report = tmp_path / "defects.csv"
    listed = tmp_path / "ids.txt"
    result = slidescan_data(few, "--out", tmp_path / "data.png", "--report", report)
    assert result.exit_code == 1
    error = result.stderr.strip()
    assert "\n" not in error
    assert f"Error: {few}: 10 defects" in error
    assert str(report) in error
    assert report.read_text().count("\n") == 11
    for part in ("1 of 96 x 50 px", "  duplicate: the same pixels", f"    same is {FEW.ids[6]}"):
        assert part in result.stdout
    listed.write_text("\n".join(FEW.ids[10:13]))
    result = slidescan_data(few, "--out", tmp_path / "data.png", "--ids", listed)
    assert result.exit_code == 1
    assert "do not have both labels" in result.stderr
    assert "patches     3: " in result.stdout


def test_the_command_divides_by_slide(kaggle: Path, tmp_path: Path) -> None:
    table = groups(tmp_path / "groups.csv", [i // 8 for i in range(120)])
    result = slidescan_data(kaggle, "--out", tmp_path / "data.png", "--groups", table)
    assert result.exit_code == 0, result.output
    assert "validation: 2 of 15 slides" in result.stdout


def test_the_command_writes_where_it_can(kaggle: Path, tmp_path: Path) -> None:
    result = slidescan_data(kaggle, "--out", tmp_path / "no" / "data.png")
    assert result.exit_code == 1
    assert "there is no folder" in result.stderr


def test_colours_are_those_of_all_pixels() -> None:
    pixels = np.zeros((4, 96, 96, 3), np.uint8)
    pixels[0] = 255
    pixels[1, :48] = (255, 0, 0)
    pixels[2] = (230, 230, 200)  # not white in blue
    colours = measure(Patches.of(("a", "b", "c", "d"), pixels, np.array([0, 0, 1, 1])))
    flat = pixels.reshape(-1, 3) / 255
    assert colours.mean == pytest.approx(flat.mean(axis=0))
    assert colours.std == pytest.approx(flat.std(axis=0))
    assert (colours.white, colours.glass, colours.patches) == (0.25, 0.25, 4)
