"""Labelled patches of several folders: joined, divided, and copies kept out of training."""

from __future__ import annotations

import csv
import io
import pickle
from pathlib import Path

import numpy as np
import patches
import pytest
from numpy.typing import NDArray
from PIL import Image

from slidescan.errors import DataError
from slidescan.patches.labelled import load_data, write_split
from slidescan.patches.labelled.near_copies import near_copies
from slidescan.patches.labelled.patches import Patches
from slidescan.patches.labelled.splits import in_validation

ONE, TWO, HELD = (patches.make(24, seed=seed) for seed in (1, 2, 3))
HALF = {"validation": 0.5}


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return patches.write(tmp_path / "one", ONE)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return patches.write_folders(tmp_path / "two", TWO)


@pytest.fixture
def held(tmp_path: Path) -> Path:
    return patches.write(tmp_path / "held", HELD)


def tissue(count: int, seed: int) -> Patches:
    """Smooth pictures, as compression expects them; noise would not survive it."""
    made = patches.make(count, seed)
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 12, 12, 3), np.uint8)
    pixels = np.stack([np.asarray(Image.fromarray(c).resize((96, 96))) for c in coarse])
    return Patches.of(made.ids, pixels, made.labels)


def as_jpeg(pixels: NDArray[np.uint8], quality: int = 75) -> NDArray[np.uint8]:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=quality)
    return np.asarray(Image.open(content))


def of(made: Patches, ids: tuple[str, ...]) -> NDArray[np.uint8]:
    return made.pixels([made.ids.index(i) for i in ids])


def test_folders_in_two_layouts_are_one_data_set(one: Path, two: Path) -> None:
    read = load_data(one, two, **HALF)
    both = {i: p for made in (ONE, TWO) for i, p in zip(made.ids, made.pixels(), strict=True)}
    for part, held_out in (read.training, False), (read.validation, True):
        assert part.ids == tuple(i for i in sorted(both) if in_validation(i, 0.5) is held_out)
        np.testing.assert_array_equal(part.pixels(), [both[i] for i in part.ids])
        np.testing.assert_array_equal(part.pixels(3), both[part.ids[3]])
    assert [(each.name, each.patches) for each in read.folders] == [
        (name, sum(i in made.ids for i in read.training.ids))
        for name, made in (("one", ONE), ("two", TWO))
    ]
    assert read.about == "PatchCamelyon, Kaggle edition and folder per class"
    again = pickle.loads(sent := pickle.dumps(read.training))
    assert len(sent) < 20_000
    np.testing.assert_array_equal(again.pixels(), read.training.pixels())


def test_a_folder_is_a_validation_set_beside_the_split_or_instead(one: Path, held: Path) -> None:
    beside = load_data(one, held=[held], **HALF)
    assert [each.name for each in beside.sets] == ["held", "split"]
    assert beside.validation.ids == tuple(sorted(HELD.ids))
    assert beside.sets[1].patches.ids == load_data(one, **HALF).validation.ids
    assert beside.split == "validation: all patches of folder held, PatchCamelyon, Kaggle edition"

    instead = load_data(one, held=[held], validation=0)
    assert [each.name for each in instead.sets] == ["held"]
    assert instead.training.ids == tuple(sorted(ONE.ids))
    with pytest.raises(DataError, match="no patches to validate on; pass --validation"):
        load_data(one, validation=0)


def test_the_fingerprint_knows_the_sets_and_their_order(one: Path, two: Path, held: Path) -> None:
    prints = {
        load_data(one, held=sets, validation=0).fingerprint
        for sets in ([two], [held], [two, held], [held, two])
    }
    assert len(prints | {load_data(one, **HALF).fingerprint}) == 5


def test_the_split_table_has_every_set(one: Path, held: Path, tmp_path: Path) -> None:
    data = load_data(one, held=[held], **HALF)
    write_split(tmp_path / "split.csv", data)
    with (tmp_path / "split.csv").open(newline="") as file:
        sides = {row["id"]: row["split"] for row in csv.DictReader(file)}
    assert {i for i, side in sides.items() if side == "validation"} == set(HELD.ids)
    further = {i for i, side in sides.items() if side == "validation.split"}
    assert further == set(data.sets[1].patches.ids)


def test_a_patch_in_two_folders_is_a_defect_of_the_later_one(one: Path, tmp_path: Path) -> None:
    both = Patches.of(
        (*TWO.ids[:20], "copy"),
        np.concatenate([TWO.pixels(slice(20)), ONE.pixels([0])]),
        np.append(TWO.labels[:20], ONE.labels[0]),
    )
    two = patches.write_folders(tmp_path / "two", both)
    with pytest.raises(DataError, match=rf"two: 1 defects .*copy is {ONE.ids[0]} of .*one again"):
        load_data(one, two, **HALF)
    read = load_data(one, two, skip_bad=True, **HALF)
    ids = {*read.training.ids, *read.validation.ids}
    assert ids == {*ONE.ids, *TWO.ids[:20]}


def test_two_folders_that_contradict_each_other_lose_both(one: Path, tmp_path: Path) -> None:
    two = patches.write(
        tmp_path / "two", Patches.of(ONE.ids[:2], ONE.pixels([0, 1]), 1 - ONE.labels[:2])
    )
    with pytest.raises(DataError, match="2 contradiction"):
        load_data(one, two, **HALF)


def test_equal_ids_of_different_pictures_stay_apart(tmp_path: Path) -> None:
    names = tuple(f"{n:02d}" for n in range(24))
    one, two = (
        patches.write(tmp_path / name, Patches.of(names, made.pixels(), made.labels))
        for name, made in (("one", ONE), ("two", TWO))
    )
    read = load_data(one, two, **HALF)
    ids = {*read.training.ids, *read.validation.ids}
    assert ids == {*names, *(f"two/{name}" for name in names)}


def test_listed_ids_may_be_in_any_folder(one: Path, two: Path, tmp_path: Path) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text("\n".join((*ONE.ids[:12], *TWO.ids[:12])))
    read = load_data(one, two, only=listed, **HALF)
    assert {*read.training.ids, *read.validation.ids} == {*ONE.ids[:12], *TWO.ids[:12]}
    listed.write_text("nobody")
    with pytest.raises(DataError, match="'nobody', matches 0"):
        load_data(one, two, only=listed, **HALF)


def test_copies_of_validation_patches_are_left_out_of_training_and_listed(tmp_path: Path) -> None:
    made, held = tissue(24, seed=4), tissue(12, seed=5)
    extra = [held.pixels(0), as_jpeg(held.pixels(1)), as_jpeg(held.pixels(2), 50)]
    ids = (*made.ids, "same", "jpeg", "worse")
    training = Patches.of(
        ids, np.concatenate([made.pixels(), extra]), np.append(made.labels, held.labels[:3])
    )
    one = patches.write_folders(tmp_path / "one", training)
    told: list[str] = []
    report = tmp_path / "defects.csv"
    held_at = patches.write_folders(tmp_path / "held", held)
    read = load_data(one, held=[held_at], validation=0, report=report, say=told.append)
    assert read.training.ids == tuple(sorted(made.ids))
    with report.open(newline="") as file:
        rows = {row["name"]: (row["kind"], row["detail"]) for row in csv.DictReader(file)}
    assert rows == {
        "same": ("held-out", f"is {held.ids[0]} of validation set held"),
        "jpeg": ("near-copy", f"looks the same as {held.ids[1]} of validation set held"),
        "worse": ("near-copy", f"looks the same as {held.ids[2]} of validation set held"),
    }
    assert told[-1] == (
        "3 training patches are left out because they are in a validation set, 2 of them as "
        f"another file of the same picture; {report} lists them"
    )


def test_only_the_same_picture_is_a_near_copy() -> None:
    made = tissue(40, seed=6)
    pixels = made.pixels().copy()
    lossy = Patches.of(made.ids, np.stack([as_jpeg(p) for p in pixels]), made.labels)
    assert near_copies(lossy, made) == [(n, n) for n in range(40)]
    turned = Patches.of(made.ids, np.ascontiguousarray(pixels[:, ::-1]), made.labels)
    assert near_copies(turned, made) == []
    # Two other pictures of glass, which only the grain distinguishes.
    rng = np.random.default_rng(0)
    glass = (rng.integers(235, 245, (2, 96, 96, 3), np.uint8) for _ in range(2))
    assert near_copies(*(Patches.of(("a", "b"), g, np.zeros(2, np.int64)) for g in glass)) == []


def test_the_official_validation_patches_are_a_set_and_train_is_not(
    one: Path, tmp_path: Path
) -> None:
    original = patches.write_hdf5(tmp_path / "original", TWO, HELD)
    read = load_data(one, held=[original], validation=0)
    assert read.training.ids == tuple(sorted(ONE.ids))
    np.testing.assert_array_equal(read.validation.pixels(), HELD.pixels())
    mixed = load_data(one, original, **HALF)
    assert sum(i.startswith("valid-") for i in mixed.validation.ids) == len(HELD)
    assert not any(i.startswith("valid-") for i in mixed.training.ids)
