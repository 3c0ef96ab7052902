"""`slidescan evaluate slides` on maps and annotations whose figures are worked out by hand."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lesions import UM, heatmap
from PIL import Image
from slide_study import (
    SHAPE,
    annotate,
    arguments,
    metrics,
    ran,
    refused,
    run,
    values,
    write_map,
)


def test_help_is_instant() -> None:
    code = """
import sys
from click.testing import CliRunner
from slidescan.cli import main
result = CliRunner().invoke(main, ["evaluate", "slides", "--help"])
assert result.exit_code == 0 and "--normal-prefix" in result.output
heavy = "torch monai sklearn zarr numpy scipy skimage shapely matplotlib pydantic".split()
print(*(name for name in heavy if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# --- figures


def test_figures_by_hand(drawn_study: Path) -> None:
    study = drawn_study
    """Three lesions, four slides, two false positives.

    0.9 found: (0, 1/3). 0.8 false: (1/4, 1/3). 0.7 false: (1/2, 1/3). 0.6 found: (1/2, 2/3). The
    last lesion is missed. So 1/3 at 1/4 false positives a slide, and 2/3 from 1/2 on.
    """
    out = study / "out"
    result = ran(*arguments(study, "--out", out))
    found = values(out)
    for method in ("nms", "components"):
        at = [found[f"froc_{method}_at_{rate}"] for rate in ("0.25", "0.5", 1, 2, 4, 8)]
        assert at == pytest.approx([1 / 3, *[2 / 3] * 5], abs=1e-12)
        assert found[f"froc_{method}"] == pytest.approx(11 / 18, abs=1e-12)
    # Maxima: tumour 0.99 and 0.1, normal 0.7 and 0.05: three of four pairs in order.
    assert found["slide_auc_maximum"] == 0.75
    # The largest regions are of one cell or none: 1, 0 against 1, 0.
    assert found["slide_auc_largest_area_mm2_0.5"] == 0.5
    tumour = 40 * 40 * 2 + 16 + 40 * 60
    assert found["cell_dice"] == pytest.approx(2 * 3 / (2 * 3 + 2 + (tumour - 3)), rel=1e-12)
    about = metrics(out)["about"]
    counts = ("slides", "tumour_slides", "normal_slides", "lesions", "isolated_tumour_cells")
    assert [about[key] for key in counts] == [4, 2, 2, 3, 1]
    assert about["um_per_cell"] == UM
    assert "FROC score, non-maximum suppression" in result.stdout
    assert "0.6111" in result.stdout
    assert "0.6111" in (out / "metrics.md").read_text()
    for name in ("froc.png", "slides.png", "cells.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 300
    assert not list(study.glob("**/.*")), "leftovers"


def test_detections_lie_on_the_slide(study: Path) -> None:
    out = study / "out"
    ran(*arguments(study, "--out", out))
    with (out / "detections.csv").open() as file:
        found = [row for row in csv.DictReader(file) if row["method"] == "nms"]
    # The centre of cell (90, 140): x = 140.5 * 15, y = 90.5 * 30.
    assert [(r["slide"], r["score"], int(r["x_l0"]), int(r["y_l0"]), r["on"]) for r in found] == [
        ("normal_1.tif", "0.7", round(100.5 * 15), round(60.5 * 30), ""),
        ("tumor_1.tif", "0.99", round(171.5 * 15), round(11.5 * 30), "isolated cells"),
        ("tumor_1.tif", "0.9", round(40.5 * 15), round(40.5 * 30), "lesion 2"),
        ("tumor_1.tif", "0.8", round(10.5 * 15), round(110.5 * 30), ""),
        ("tumor_1.tif", "0.6", round(140.5 * 15), round(90.5 * 30), "lesion 3"),
    ]
    rows = {row["slide"]: row for row in metrics(out)["per_slide"]}
    lesions = rows["tumor_1.tif"]["lesions"]
    assert [lesion["isolated_cells"] for lesion in lesions] == [True, False, False]
    assert lesions[0]["score"] is None
    assert lesions[1]["score"]["nms"] == pytest.approx(0.9)
    assert rows["tumor_2.tif"]["lesions"][0]["score"] == {"nms": None, "components": None}


def test_radius_and_threshold_are_used(study: Path) -> None:
    # Two peaks 60 um apart, both false: one detection at 75 um, two at 50.
    write_map(study / "maps" / "normal_3.zarr", heatmap(SHAPE, {(5, 5): 0.6, (5, 13): 0.55}))
    counts = {}
    for name, more in {
        "wide": ("--radius", 75),
        "narrow": ("--radius", 50),
        "high": ("--radius", 50, "--threshold", 0.58),
    }.items():
        ran(*arguments(study, "--out", study / name, *more))
        rows = {row["slide"]: row for row in metrics(study / name)["per_slide"]}
        counts[name] = rows["normal_3.tif"]["false_positives"]["nms"]
    assert counts == {"wide": 1, "narrow": 2, "high": 1}


def test_a_coarser_grid(study: Path) -> None:
    """At 15 um the lesions stay; a single cell is averaged with its three neighbours."""
    out = study / "out"
    ran(*arguments(study, "--out", out, "--um-per-px", 16, "--threshold", 0.25))
    about = metrics(out)["about"]
    assert about["um_per_cell"] == 2 * UM
    assert (about["lesions"], about["isolated_tumour_cells"]) == (3, 1)
    rows = {row["slide"]: row for row in metrics(out)["per_slide"]}
    maximum = rows["tumor_1.tif"]["features"]["maximum"]
    assert maximum == pytest.approx((0.99 + 3 * 0.1) / 4, rel=1e-6)
    # 0.8 and three of 0.1 are 0.275, in cell (55, 5): its centre lies at (5.5 * 30, 55.5 * 60).
    assert "0.275,165,3330" in (out / "detections.csv").read_text()
    refused(run(*arguments(study, "--um-per-px", 5)), "7.5 um", "--um-per-px 5")


@pytest.mark.slow
def test_leave_one_out_or_given_splits(study: Path) -> None:
    for i, (kind, base) in enumerate([("tumor", 0.4), ("normal", 0.05)] * 3, start=3):
        write_map(study / "maps" / f"{kind}_{i}.zarr", heatmap(SHAPE, {}, base=base))
        if kind == "tumor":
            annotate(study / "annotations" / f"tumor_{i}.json", (20, 20, 40, 40))
    ran(*arguments(study, "--out", study / "alone"))
    assert metrics(study / "alone")["about"]["forest"] == "leave-one-out"
    found = values(study / "alone")["slide_auc_random_forest"]
    assert found > 0.8
    table = study / "splits.csv"
    names = sorted(path.stem for path in (study / "maps").iterdir())
    table.write_text("slide,fold\n" + "".join(f"{n},{n[-1]}\n" for n in names))
    ran(*arguments(study, "--out", study / "split", "--splits", table))
    assert metrics(study / "split")["about"]["forest"] == "8 folds"
    table.write_text("slide,fold\ntumor_1,a\n")
    refused(run(*arguments(study, "--splits", table)), "no fold for", table)


def test_too_few_slides_leave_the_rest_standing(study: Path) -> None:
    shutil.rmtree(study / "maps" / "tumor_2.zarr")
    out = study / "out"
    result = ran(*arguments(study, "--out", out))
    found = metrics(out)["metrics"]
    assert found["slide_auc_random_forest"]["value"] is None
    assert "no tumour slide is left" in found["slide_auc_random_forest"]["note"]
    assert found["slide_auc_maximum"]["value"] == 1
    assert found["froc_nms"]["value"] > 0
    assert found["froc_nms"]["low"] is None  # one slide with lesions
    assert "undefined" in result.stdout
    assert "tumor_2.json" in result.stderr


def test_only_normal_slides(study: Path) -> None:
    for path in (study / "maps").glob("tumor_*"):
        shutil.rmtree(path)
    out = study / "out"
    ran(*arguments(study, "--out", out))
    found = metrics(out)["metrics"]
    for key in ("froc_nms", "slide_auc_maximum", "cell_auc", "cell_dice_mean"):
        assert found[key]["value"] is None
        assert found[key]["note"]


def test_isolated_cells_alone(study: Path) -> None:
    write_map(study / "maps" / "tumor_3.zarr", heatmap(SHAPE, {}))
    annotate(study / "annotations" / "tumor_3.json", (10, 10, 4, 4))
    labels = {}
    for name, more in {"tumour": (), "normal": ("--itc-normal",)}.items():
        ran(*arguments(study, "--out", study / name, *more))
        rows = {row["slide"]: row for row in metrics(study / name)["per_slide"]}
        labels[name] = rows["tumor_3.tif"]["label"]
    assert labels == {"tumour": 1, "normal": 0}


def test_tumour_too_small_for_the_grid(study: Path) -> None:
    """Of 4 x 9 level-0 px and off every cell's centre: still a tumour slide."""
    write_map(study / "maps" / "tumor_3.zarr", heatmap(SHAPE, {}))
    path = study / "annotations" / "tumor_3.json"
    corners = [[2402, 3001], [2406, 3001], [2406, 3010], [2402, 3010]]
    path.write_text(json.dumps({"positive": [{"name": "L", "vertices": corners}], "negative": []}))
    reference = study / "reference.csv"
    for label, more in {1: (), 0: ("--reference", reference)}.items():
        reference.write_text("slide,label\ntumor_3,normal\n")
        out = study / str(label)
        assert "covers no centre" in ran(*arguments(study, "--out", out, *more)).stderr
        rows = {row["slide"]: row for row in metrics(out)["per_slide"]}
        assert (rows["tumor_3.tif"]["label"], rows["tumor_3.tif"]["lesions"]) == (label, [])
