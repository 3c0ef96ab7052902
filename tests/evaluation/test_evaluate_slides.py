"""`slidescan evaluate slides` on maps and annotations whose figures are worked out by hand."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import slides
from click.testing import Result
from lesions import UM, Values, heatmap
from PIL import Image

from slidescan.evaluation import slide_level
from slidescan.evaluation.truth import Truth
from slidescan.geometry import Grid
from slidescan.maps.store import Heatmap
from slidescan.slides.slide import Slide

SHAPE = (120, 200)
STRIDE, MPP = 8, UM / 8
SLIDE_MPP = (0.25, 0.5)
"""um/px, (y, x): 30 x 15 level-0 px a cell, so that an x/y swap shows."""
FEW = ("--resamples", "20")


def run(*arguments: object) -> Result:
    """Run `slidescan evaluate slides ARGUMENTS`; an exception is raised here."""
    return commands.run("evaluate", "slides", *arguments)


def ran(*arguments: object) -> Result:
    return commands.ran("evaluate", "slides", *arguments)


def refused(result: Result, *words: object) -> None:
    """Check that it failed, and that the first error has all the words."""
    assert result.exit_code == 1
    first = result.stderr.splitlines()[0]
    assert first.startswith("Error: ")
    assert len(first) < 600
    for word in words:
        assert str(word) in first, first


def write_map(path: Path, values: Values, **changes: Any) -> Path:
    """Write a map of these cells; `blocks` is how many are written, and leaves it unfinished."""
    rows, columns = values.shape
    mask = np.isfinite(values)
    slide = {
        "fingerprint": f"test:{path.stem}",
        "mpp": list(SLIDE_MPP),
        "extent_l0": [rows * 30, columns * 15],
    }
    model = {"name": "tiny", "sha256": "ab" * 32}
    with Heatmap.create(
        path,
        grid=Grid((rows * STRIDE, columns * STRIDE), STRIDE),
        mpp=MPP,
        mask=mask,
        settings={"slide": slide | changes.get("slide", {}), "model": changes.get("model", model)},
        provenance={"slide": changes.get("name", f"{path.stem}.tif")},
    ) as made:
        for block in list(made.missing())[: changes.get("blocks")]:
            made.write(block, values[block.slices])
        if "blocks" not in changes:
            made.finish({})
    return path


def rectangle_l0(top: int, left: int, height: int, width: int) -> list[list[float]]:
    """The outline of a rectangle of cells, (x, y) in level-0 px."""
    y0, y1, x0, x1 = top * 30, (top + height) * 30, left * 15, (left + width) * 15
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def annotate(path: Path, *rectangles: tuple[int, int, int, int]) -> None:
    polygons = [{"name": f"L{i}", "vertices": rectangle_l0(*r)} for i, r in enumerate(rectangles)]
    path.write_text(json.dumps({"positive": polygons, "negative": []}))


@pytest.fixture(autouse=True)
def small_forests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slide_level, "TREES", 20)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """maps/ and annotations/ of two tumour slides and two normal ones.

    tumor_1: lesions A, rows 20-59 and columns 20-59, found at 0.9; B, rows 70-109 and columns
    120-159, found at 0.6; isolated cells at rows 10-13 and columns 170-173, said 0.99; a false
    detection at 0.8. tumor_2: a lesion that is missed. normal_1: false at 0.7. normal_2: nothing.
    """
    maps, annotations = tmp_path / "maps", tmp_path / "annotations"
    maps.mkdir()
    annotations.mkdir()
    peaks = {(40, 40): 0.9, (90, 140): 0.6, (11, 171): 0.99, (110, 10): 0.8}
    write_map(maps / "tumor_1.zarr", heatmap(SHAPE, peaks))
    write_map(maps / "tumor_2.zarr", heatmap(SHAPE, {}))
    write_map(maps / "normal_1.zarr", heatmap(SHAPE, {(60, 100): 0.7}, base=0.05))
    write_map(maps / "normal_2.zarr", heatmap(SHAPE, {}, base=0.05))
    annotate(annotations / "tumor_1.json", (20, 20, 40, 40), (70, 120, 40, 40), (10, 170, 4, 4))
    annotate(annotations / "tumor_2.json", (20, 20, 40, 60))
    return tmp_path


def arguments(study: Path, *more: object) -> tuple[object, ...]:
    given = (study / "maps", "--annotations", study / "annotations", "--normal-prefix", "normal_")
    return (*given, *FEW, *more)


def metrics(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


def values(out: Path) -> dict[str, float]:
    return {key: m["value"] for key, m in metrics(out)["metrics"].items()}


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


def test_figures_by_hand(study: Path) -> None:
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


# --- which annotations belong to a slide, and slides without any


def test_a_slide_without_annotations_is_not_normal_by_itself(study: Path) -> None:
    given = study / "maps", "--annotations", study / "annotations", *FEW
    result = run(*given)
    refused(result, "normal_1.tif", "no annotations", "--normal-prefix", "--unannotated normal")
    assert "2 of 4 maps failed" in result.stderr
    assert "FROC score" in result.stdout  # the others are evaluated
    reference = study / "reference.csv"
    reference.write_text("slide,label\nNormal_1.tif,Normal\nnormal_2,0\ntumor_1,Tumor\n")
    for more in (
        ("--unannotated", "normal"),
        ("--normal-prefix", "Normal_"),
        ("--reference", reference),
    ):
        ran(*given, *more)


def test_contradictions_are_refused(study: Path) -> None:
    given = arguments(study)
    reference = study / "reference.csv"
    for content, words in {
        "slide,label\ntumor_1,normal\n": ("tumor_1.tif", "normal by --reference", "2 lesions"),
        "slide,label\nnormal_1,tumour\n": ("normal_1.tif", "tumour by --reference"),
    }.items():
        reference.write_text(content)
        refused(run(*given, "--reference", reference), *words)
    annotate(study / "annotations" / "normal_1.json", (20, 20, 40, 40))
    refused(run(*given), "normal_1.tif", "1 lesions")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("slide,class\na,1\n", ("columns", "slide and label")),
        ("slide,label\na,1\na,1\n", ("line 3", "second time")),
        ("slide,label\na,maybe\n", ("'maybe'", "expected")),
        ("slide,label\na,\n", ("line 2", "lacks")),
        (None, ("no such file",)),
    ],
)
def test_bad_references(study: Path, content: str | None, words: tuple[str, ...]) -> None:
    reference = study / "reference.csv"
    if content:
        reference.write_text(content)
    refused(run(*arguments(study, "--reference", reference)), reference, *words)


def test_bad_folders(study: Path) -> None:
    empty = study / "empty"
    empty.mkdir()
    refused(run(study / "maps", "--annotations", empty), empty, "no annotations")
    refused(run(study / "maps", "--annotations", study / "nowhere"), "nowhere", "--annotations")
    refused(run(empty, "--annotations", study / "annotations"), empty, "folder of maps")
    shutil.copy(study / "annotations" / "tumor_1.json", study / "annotations" / "Tumor_1.xml")
    refused(run(*arguments(study)), "Tumor_1.xml", "tumor_1.json", "keep one")


def test_annotations_with_no_tumour_are_said_to_be(study: Path) -> None:
    annotate(study / "annotations" / "normal_1.json")
    result = ran(*arguments(study))
    assert "no tumour in it, so the slide counts as normal" in result.stderr


def geojson(path: Path, label: str | None, *, below: bool = False) -> None:
    """Write the lesion of tumor_2 as QuPath does: of a class, optionally as a child of tissue."""
    lesion: dict[str, Any] = {
        "type": "Feature",
        "geometry": {
            "type": "Polygon",
            "coordinates": [[*(r := rectangle_l0(20, 20, 40, 60)), r[0]]],
        },
        "properties": {"objectType": "annotation", "classification": label and {"name": label}},
    }
    tissue = {**lesion, "properties": {"classification": {"name": "Tissue"}}}
    if below:
        tissue["properties"] |= {"childObjects": [lesion]}
    path.with_suffix(".json").unlink()
    path.write_text(json.dumps([tissue if below else lesion]))


def test_lesions_below_tissue_in_qupaths_hierarchy_count(study: Path) -> None:
    flat, nested = study / "flat", study / "nested"
    ran(*arguments(study, "--out", flat))
    geojson(study / "annotations" / "tumor_2.geojson", "Tumor", below=True)
    result = ran(*arguments(study, "--out", nested))
    assert metrics(nested)["metrics"] == metrics(flat)["metrics"]
    assert "tumor_2.geojson: not counted as tumour: 1 of class 'tissue'" in result.stderr


@pytest.mark.parametrize("label", ["Carcinoma", "Metastase", "Tumor*", None])
def test_a_slide_of_unknown_classes_is_not_normal_by_itself(study: Path, label: str | None) -> None:
    out = study / "out"
    ran(*arguments(study, "--out", out))
    before = values(out)
    geojson(study / "annotations" / "tumor_2.geojson", label)
    kind = f"1 of class '{label.lower()}'" if label else "1 without a class"
    refused(run(*arguments(study)), "tumor_2.tif", kind, "--tumour-class", "--reference")
    ran(*arguments(study, "--out", out, "--tumour-class", label or "unclassified"))
    assert values(out) == before
    reference = study / "reference.csv"
    reference.write_text("slide,label\ntumor_2,normal\n")
    result = ran(*arguments(study, "--out", out, "--reference", reference))
    assert f"not counted as tumour: {kind}" in result.stderr
    assert metrics(out)["about"]["tumour_slides"] == 1


def test_an_empty_collection_is_a_normal_slide(study: Path) -> None:
    path = study / "annotations" / "normal_1.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    out = study / "out"
    ran(study / "maps", "--annotations", study / "annotations", "--unannotated", "normal", *FEW,
        "--out", out)  # fmt: skip
    assert metrics(out)["about"]["normal_slides"] == 2


def test_maps_and_annotations_in_each_others_place_are_refused(study: Path) -> None:
    maps, annotations = study / "maps", study / "annotations"
    refused(run(annotations, "--annotations", maps), "annotations, not maps", "first")
    refused(run(maps, "--annotations", maps), "holds maps, not annotations", "first")
    one = annotations / "tumor_1.json"
    refused(run(maps, "--annotations", one), one, "--annotations is the folder")


def test_names_compare_without_case_and_by_the_slide_first(tmp_path: Path) -> None:
    for name in ("Tumor_1.xml", "other.json"):
        (tmp_path / name).touch()
    truth = Truth.of(tmp_path)
    found = truth.file(("tumor_1.TIF", "other.zarr"))
    assert found is not None
    assert found.name == "Tumor_1.xml"
    assert truth.unused([found]) == ["other.json"]


def test_a_map_matched_by_its_own_name_says_so(study: Path) -> None:
    write_map(study / "maps" / "tumor_3.zarr", heatmap(SHAPE, {}), name="scan-0815.tif")
    annotate(study / "annotations" / "tumor_3.json", (20, 20, 40, 40))
    assert "by the map's name, but made from scan-0815.tif" in ran(*arguments(study)).stderr


# --- maps


def test_one_bad_map_does_not_stop_the_rest(study: Path) -> None:
    out = study / "out"
    bad = study / "maps" / "tumor_9.zarr"
    bad.mkdir()
    (study / "annotations" / "tumor_2.json").write_text("{")
    result = run(*arguments(study, "--out", out))
    assert result.exit_code == 1
    assert "tumor_2" in result.stderr
    assert "not a slidescan map" in result.stderr
    assert result.stderr.splitlines()[-1] == (
        "Error: 2 of 5 maps failed and are left out of the figures"
    )
    # Two lesions, three slides: (0, 1/2), false at 0.8 and 0.7, found at 0.6: (2/3, 1).
    assert values(out)["froc_nms"] == pytest.approx((0.5 + 0.5 + 4) / 6)
    assert len(metrics(out)["failed"]) == 2
    assert "Left out" in (out / "metrics.md").read_text()


def test_a_missing_library_is_named(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    refused(run(*arguments(study)), "sklearn", "-m pip install", "scikit-learn>=")


def test_no_map_at_all(study: Path) -> None:
    result = run(study / "gone.zarr", "--annotations", study / "annotations")
    refused(result, "gone.zarr")
    assert "no such map" in result.stderr


def test_unfinished_maps(study: Path) -> None:
    big = heatmap((300, 200), {(10, 10): 0.9, (280, 100): 0.8}, base=0.05)
    write_map(study / "maps" / "normal_3.zarr", big, blocks=1)
    refused(run(*arguments(study)), "normal_3", "not finished", "--partial")
    out = study / "out"
    result = ran(*arguments(study, "--partial", "--out", out))
    # One block of 256 of 300 rows.
    assert "unfinished: only 85.3% of its cells" in result.stderr
    rows = {row["slide"]: row for row in metrics(out)["per_slide"]}
    assert rows["normal_3.tif"]["scanned_share"] == pytest.approx(256 / 300)
    assert rows["normal_3.tif"]["false_positives"] == {"nms": 1, "components": 1}


def test_unscanned_tumour_is_stated(study: Path) -> None:
    half = heatmap(SHAPE, {(40, 30): 0.9})
    half[:, 40:] = np.nan  # half of the lesion at columns 20 to 59
    write_map(study / "maps" / "tumor_3.zarr", half)
    annotate(study / "annotations" / "tumor_3.json", (20, 20, 40, 40))
    out = study / "out"
    result = ran(*arguments(study, "--out", out))
    rows = {row["slide"]: row for row in metrics(out)["per_slide"]}
    assert rows["tumor_3.tif"]["cells"]["unscanned_tumour"] == 0.5
    assert "of the annotated tumour, which was not scanned" in result.stdout


def test_what_does_not_belong_together(study: Path) -> None:
    maps = study / "maps"
    other = {"name": "other", "sha256": "cd" * 32}
    write_map(maps / "normal_3.zarr", heatmap(SHAPE, {}), model=other)
    refused(run(*arguments(study)), "normal_3", "tiny", "other", "evaluate them separately")
    shutil.rmtree(maps / "normal_3.zarr")
    twin = {"fingerprint": "test:normal_1"}
    write_map(maps / "normal_3.zarr", heatmap(SHAPE, {}), slide=twin)
    refused(run(*arguments(study)), "normal_3", "normal_1", "twice")


def test_two_slides_of_one_name_are_not_given_the_same_annotations(study: Path) -> None:
    write_map(study / "maps" / "tumor_1b.zarr", heatmap(SHAPE, {}), name="tumor_1.svs")
    refused(run(*arguments(study)), "tumor_1b", "tumor_1.json", "would belong to both")


def test_annotations_of_another_slide(study: Path) -> None:
    annotate(study / "annotations" / "tumor_2.json", (400, 500, 40, 40))
    refused(run(*arguments(study)), "tumor_2.json")


def test_maps_are_checked_against_their_slides(study: Path, section: Path) -> None:
    """normal_1.tif is the slide that its map names; normal_2.tif is another."""
    folder = study / "slides"
    folder.mkdir()
    for path in (study / "maps").iterdir():
        shutil.rmtree(path)
    shutil.copy(section, folder / "normal_1.tif")
    slides.write_slide(folder / "normal_2.tif", slides.waves(96, 96), mpp=0.972)
    with Slide.open(section) as slide:
        there = {"fingerprint": slide.fingerprint, "mpp": list(slide.mpp)}
    for i in (1, 2):
        write_map(study / "maps" / f"normal_{i}.zarr", heatmap(SHAPE, {}), slide=there)
    first, second = study / "maps" / "normal_1.zarr", study / "maps" / "normal_2.zarr"
    rest = arguments(study, "--slides", folder)[1:]
    ran(first, *rest)
    refused(run(second, *rest), "normal_2", "another", "fingerprints differ")
    (folder / "normal_1.tif").unlink()
    refused(run(first, *rest), "normal_1.tif", "no such file")


def test_the_same_again_is_the_same(study: Path) -> None:
    ran(*arguments(study, "--out", study / "a"))
    ran(*arguments(study, "--out", study / "b"))
    first, second = (study / name / "metrics.json" for name in "ab")
    assert first.read_bytes() == second.read_bytes()
