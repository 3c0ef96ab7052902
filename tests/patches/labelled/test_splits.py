"""Training and validation patches."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import patches
import pytest
from labelled_patches import DATA, groups, refused, same

from slidescan.errors import DataError
from slidescan.patches.labelled import load_data, splits, write_split
from slidescan.patches.labelled.patches import Patches
from slidescan.patches.labelled.splits import ids_sha256, in_validation

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
