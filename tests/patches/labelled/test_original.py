"""The original edition of PatchCamelyon, in HDF5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import patches
import pytest
from labelled_patches import FEW, TRAINING, VALIDATION, refused

from slidescan.patches.labelled import load_data


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
