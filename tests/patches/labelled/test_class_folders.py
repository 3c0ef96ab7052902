"""A folder of images for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import patches
import pytest
from labelled_patches import FEW, HALF, refused, same

from slidescan.patches.labelled import load_data
from slidescan.patches.labelled.patches import Patches


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
