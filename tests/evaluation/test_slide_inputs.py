"""Which maps and annotations `slidescan evaluate slides` takes, and which it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slides
from lesions import heatmap
from slide_study import (
    FEW,
    SHAPE,
    annotate,
    arguments,
    metrics,
    ran,
    rectangle_l0,
    refused,
    run,
    values,
    write_map,
)

from slidescan.evaluation.truth import Truth
from slidescan.slides.slide import Slide

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
