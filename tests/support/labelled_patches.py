"""Labelled patches on disk, and what is true of them once they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import patches
import pytest
from PIL import Image

from slidescan.errors import SlidescanError
from slidescan.patches.labelled import Data, load_data
from slidescan.patches.labelled.patches import Patches

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


def cached(folder: Path) -> Path:
    return folder / ".slidescan" / "patches.npy"


def groups(path: Path, slides: Sequence[object]) -> Path:
    rows = zip(DATA.ids, slides, strict=False)
    path.write_text("id,slide\n" + "".join(f"{i},{slide}\n" for i, slide in rows))
    return path
