"""Patches that are damaged, missing or contradictory."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import patches
from labelled_patches import FEW, HALF, refused, same, spoil

from slidescan.patches.labelled import load_data
from slidescan.patches.labelled.patches import Patches


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
