"""Reading ASAP, NCRF and QuPath files: equal results, reported repairs, refused files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from annotation_files import (
    BOW_TIE,
    FAR,
    FORMS,
    HOLE,
    SQUARE,
    areas,
    asap,
    feature,
    labels,
    load,
    ncrf,
    polygon,
)

from slidescan.annotations.reading import load_annotations
from slidescan.errors import AnnotationError


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["slide.json", "slide.xml", "slide"])
def test_every_form_gives_the_same_lesions_whatever_its_name(
    tmp_path: Path, form: str, name: str
) -> None:
    found = load(tmp_path, FORMS[form], name)
    first, second = found.tumour()
    assert first.equals(shapely.Polygon(SQUARE, [HOLE]))
    assert second.equals(shapely.Polygon(FAR))
    assert found.problems == ()
    assert set(labels(found)) <= {"tumour", "excluded"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("form", ["asap", "ncrf"])
def test_byte_order_marks_are_read(tmp_path: Path, form: str, encoding: str) -> None:
    assert areas(load(tmp_path, FORMS[form].encode(encoding))) == [9600, 1600]


def test_a_bare_geometry_has_no_class_and_that_is_said(tmp_path: Path) -> None:
    found = load(tmp_path, polygon(SQUARE))
    assert labels(found) == ["unclassified"]
    assert found.tumour() == []
    assert found.not_used == {"without a class": 1}


def test_a_group_within_tumour_is_tumour_and_its_own_class_elsewhere(tmp_path: Path) -> None:
    groups = (
        '<Group Name="micro" PartOfGroup="Tumor" /><Group Name="Fat" PartOfGroup="None" />'
        '<Group Name="ring" PartOfGroup="loop" /><Group Name="loop" PartOfGroup="ring" />'
    )
    drawn = [(name, name, SQUARE) for name in ("micro", "Fat", "ring", "None")]
    found = load(tmp_path, asap(*drawn, groups=groups))
    assert labels(found) == ["tumour", "fat", "ring", "unclassified"]


def test_ncrf_negative_is_tissue_on_normal_slides_and_a_hole_beside_tumour(tmp_path: Path) -> None:
    assert labels(load(tmp_path, ncrf(negative=[SQUARE]), "normal_001.json")) == ["normal"]
    assert labels(load(tmp_path, ncrf([SQUARE], [HOLE]))) == ["tumour", "excluded"]


def test_positive_polygons_of_a_normal_slide_are_not_taken_in_silence(tmp_path: Path) -> None:
    found = load(tmp_path, ncrf([SQUARE]), "normal_001.json")
    assert areas(found) == [10000]
    assert "named as a normal slide" in found.problems[0]


def test_names_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    found = load(tmp_path, [feature(polygon(SQUARE), "\x1b[31m", name="a\x1b]0;b\x07 \ud800\nc")])
    assert found.regions[0].name == "a\ufffd]0;b\ufffd \ufffd c"
    assert labels(found) == ["\ufffd[31m"]


def test_no_region_at_all_is_fine(tmp_path: Path) -> None:
    for empty in (asap(), ncrf(), [], {"type": "FeatureCollection", "features": []}):
        found = load(tmp_path, empty)
        assert (found.regions, found.problems, found.tumour()) == ((), (), [])


@pytest.mark.parametrize("place", ["feature", "properties"])
def test_annotations_below_others_in_qupaths_hierarchy_are_read(tmp_path: Path, place: str) -> None:
    hole = feature(polygon(HOLE), "Ignore*", name="hole")
    lesion, tissue = feature(polygon(SQUARE), name="lesion"), feature(polygon(FAR), "Tissue")
    for parent, child in ((lesion, hole), (tissue, lesion)):
        (parent if place == "feature" else parent["properties"])["childObjects"] = [child]
    found = load(tmp_path, {"type": "FeatureCollection", "features": [tissue]})
    assert [region.name for region in found.regions] == ["feature 1", "lesion", "hole"]
    assert areas(found) == [9600]
    assert found.not_used == {"of class 'tissue'": 1}
    (child,) = lesion["childObjects"] if place == "feature" else [hole]
    child["geometry"] = {"type": "Circle"}
    with pytest.raises(AnnotationError, match="feature 3: got 'Circle'"):
        load(tmp_path, [tissue])
    tissue["childObjects"] = [5]
    with pytest.raises(AnnotationError, match="feature 1: childObjects: feature 1: got 5"):
        load(tmp_path, [tissue])


def test_what_may_be_tumour_by_another_name_is_counted(tmp_path: Path) -> None:
    drawn = [feature(polygon(SQUARE), name) for name in ("Carcinoma", "Carcinoma", "Tumor*", None)]
    drawn += [feature(polygon(SQUARE), name) for name in ("Tumor", "Normal", "Negative")]
    drawn += [feature(polygon(FAR), "Ignore*")]
    drawn += [
        feature(polygon(FAR), objectType="detection"),
        feature({"type": "Point", "coordinates": [1, 2]}),
        feature(polygon(FAR[:2])),
    ]
    assert load(tmp_path, drawn).not_used == {
        "of class 'carcinoma'": 2,
        "of class 'tumor*'": 1,
        "without a class": 1,
        "of kind detection": 1,
        "without an area": 2,
    }
    dots = load(tmp_path, asap(("d", "Tumor", SQUARE[:1]), kind="Dot"))
    assert dots.not_used == {"without an area": 1}


@pytest.mark.parametrize(
    "drawn",
    [
        [feature(polygon(SQUARE), "Carcinoma: invasive")],
        asap(("a", "CARCINOMA", SQUARE)),
        asap(("a", "x", SQUARE), groups='<Group Name="x" PartOfGroup="Carcinoma" />'),
    ],
)
def test_a_class_can_be_named_as_tumour(tmp_path: Path, drawn: Any) -> None:
    assert areas(load(tmp_path, drawn)) == []
    assert areas(load(tmp_path, drawn, tumour=["Carcinoma"])) == [10000]


@pytest.mark.parametrize(
    "drawn", [polygon(SQUARE), asap(("a", "None", SQUARE)), asap(("a", "", SQUARE))]
)
def test_regions_without_a_class_can_be_named_as_tumour(tmp_path: Path, drawn: Any) -> None:
    assert areas(load(tmp_path, drawn)) == []
    assert areas(load(tmp_path, drawn, tumour=["unclassified"])) == [10000]


@pytest.mark.parametrize(
    ("classification", "label"),
    [
        ({"name": "tumor"}, "tumour"),
        ({"name": "Tumor: Positive"}, "tumour"),
        ({"names": ["Metastases", "Large"]}, "tumour"),
        ({"name": "Positive", "colorRGB": -377282}, "tumour"),
        ({"name": "IGNORE*"}, "excluded"),
        ({"name": "Exclude"}, "excluded"),
        ({"name": "Stroma"}, "stroma"),
        ({"name": "Non-tumor"}, "non-tumor"),
        ("Tumor", "tumour"),
        ({}, "unclassified"),
        (None, "unclassified"),
    ],
)
def test_classes_of_qupath(tmp_path: Path, classification: Any, label: str) -> None:
    found = load(tmp_path, [feature(polygon(SQUARE), None, classification=classification)])
    assert labels(found) == [label]


def test_what_has_no_area_or_is_no_annotation_is_skipped_and_said(tmp_path: Path) -> None:
    line = {"type": "LineString", "coordinates": [[0, 0], [9, 9]]}
    both = {"type": "GeometryCollection", "geometries": [line, polygon(SQUARE)]}
    found = load(
        tmp_path,
        [
            feature({"type": "Point", "coordinates": [1, 2]}, name="a\nmark"),
            feature(both, name="both"),
            feature(None, name="nothing"),
            *(feature(polygon(FAR), objectType="detection") for _ in range(3)),
            {**feature(polygon(FAR)), "id": "PathCellObject", "properties": {}},
        ],
    )
    assert areas(found) == [10000]
    assert found.problems == (
        "a mark: skipped, a Point has no area",
        "both: skipped, a LineString has no area",
        "nothing: skipped, a missing geometry has no area",
        "skipped 3 of kind detection: not drawn by a person",
        "skipped 1 of kind cell: not drawn by a person",
    )


def test_dots_are_skipped_and_splines_taken_as_polygons(tmp_path: Path) -> None:
    dots = load(tmp_path, asap(("d", "Tumor", SQUARE[:1]), kind="Dot"))
    assert (dots.regions, dots.problems) == ((), ("d: skipped, a dot has no area",))
    spline = load(tmp_path, asap(("s", "Tumor", SQUARE), kind="Spline"))
    assert areas(spline) == [10000]
    assert "spline" in spline.problems[0]


def test_open_rings_of_geojson_are_closed_and_said(tmp_path: Path) -> None:
    shape = {"type": "Polygon", "coordinates": [[*SQUARE], [*HOLE, HOLE[0]]]}
    found = load(tmp_path, [feature(shape, name="open")])
    assert areas(found) == [9600]
    assert found.problems == ("open: 1 open ring closed",)


def test_asap_and_ncrf_rings_may_repeat_their_first_vertex(tmp_path: Path) -> None:
    closed = [*SQUARE, SQUARE[0]]
    for text in (ncrf([closed]), asap(("a", "Tumor", closed))):
        found = load(tmp_path, text)
        assert (areas(found), found.problems) == ([10000], ())


def test_a_self_intersection_is_repaired_and_said(tmp_path: Path) -> None:
    found = load(tmp_path, ncrf([BOW_TIE]))
    assert areas(found) == [2500, 2500]
    assert found.problems == ("positive 0: self-intersection at (50, 50): repaired, 2 polygons",)
    assert all(region.polygon.is_valid for region in found.regions)


def test_a_line_that_crosses_its_own_start_leaves_no_hole(tmp_path: Path) -> None:
    # The pen comes around below its start (50, 0) and ends inside: a triangle is enclosed twice.
    ring = [(50, 0), (100, 0), (100, 100), (0, 100), (0, -10), (70, -10), (70, 10)]
    found = load(tmp_path, ncrf([ring]))
    assert areas(found) == [pytest.approx(100 * 100 + 70 * 10)]
    assert found.problems == ("positive 0: self-intersection at (70, 0): repaired, 1 polygon",)


def test_slivers_of_a_repair_are_no_lesions(tmp_path: Path) -> None:
    # The last edge crosses the first close to its end, which cuts off 0.5 px2.
    ring = [(0, 0), (100, 0), (100, 100), (-1, 100), (1, -1)]
    found = load(tmp_path, ncrf([ring]))
    assert len(found.tumour()) == 1
    assert found.problems[0].endswith("repaired, 1 polygon")


def test_rings_of_two_points_are_dropped_and_said(tmp_path: Path) -> None:
    line = [SQUARE[0], SQUARE[1], SQUARE[0], SQUARE[1]]
    found = load(tmp_path, ncrf([line, SQUARE, []]))
    assert areas(found) == [10000]
    assert found.problems == (
        "positive 0: 1 ring of fewer than 3 points dropped",
        "positive 2: 1 ring of fewer than 3 points dropped",
    )
    found = load(tmp_path, [feature(polygon(SQUARE, HOLE[:2]), name="f")])
    assert areas(found) == [10000]
    assert found.problems == ("f: 1 ring of fewer than 3 points dropped",)


def test_a_ring_without_area_is_dropped_and_said(tmp_path: Path) -> None:
    found = load(tmp_path, ncrf([[(0, 0), (50, 50), (100, 100)]]))
    assert found.regions == ()
    assert found.problems[0].endswith("without an area, dropped")


def test_overlapping_lesions_are_one_and_an_exclusion_can_part_them(tmp_path: Path) -> None:
    shifted = [(x + 50, y) for x, y in SQUARE]
    assert areas(load(tmp_path, ncrf([SQUARE, shifted]))) == [15000]
    across = [(55, 0), (65, 0), (65, 200), (55, 200)]
    assert areas(load(tmp_path, ncrf([SQUARE], [across]))) == [4500, 4500]


def test_an_exclusion_over_everything_is_said(tmp_path: Path) -> None:
    found = load(tmp_path, ncrf([HOLE], [SQUARE]))
    assert found.tumour() == []
    assert found.problems == ("excluded regions cover all of the tumour",)
    assert found.describe_not_used() == "1 of the tumour, which excluded regions cover"


def test_vertices_outside_the_slide_are_said_and_those_on_its_edge_are_inside(
    tmp_path: Path,
) -> None:
    assert load(tmp_path, ncrf([SQUARE]), size_l0=(110, 120)).problems == ()
    found = load(tmp_path, ncrf([SQUARE]), size_l0=(100, 150))
    # Of five: the first vertex ends the ring as well.
    assert found.problems == ("positive 0: 2 of 5 vertices outside the slide of 100 x 150 px",)
    assert areas(found) == [10000]


def test_a_region_off_the_slide_is_another_slides_or_levels(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"positive 1 \(x 300 to 340.*another slide or to an"):
        load(tmp_path, ncrf([SQUARE, FAR]), size_l0=(200, 200))


LAUGHS = (
    '<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>\n'
    "<ASAP_Annotations>&b;</ASAP_Annotations>"
)
OUTSIDE = '<!DOCTYPE a SYSTEM "file:///etc/hostname">\n<ASAP_Annotations />'
COORDINATE = asap(("a", "Tumor", SQUARE))
BAD: dict[str, tuple[Any, str]] = {
    "billion laughs": (LAUGHS, "line 2: has a DTD"),
    "external entity": (OUTSIDE, "line 1: has a DTD"),
    "cut XML": (asap(("a", "Tumor", SQUARE))[:-60], r"not well-formed XML: .*line \d"),
    "unknown encoding": ('<?xml version="1.0" encoding="klingon"?><a/>', "not well-formed XML"),
    "other XML": ("<html>\n</html>", r"line 1: got <html>, expected ASAP's"),
    "no number": (
        COORDINATE.replace('Y="120"', 'Y="1,2"', 1),
        r"line 3: got Y='1,2', expected a n",
    ),
    "NaN in XML": (COORDINATE.replace('X="10"', 'X="nan"', 1), "line 3: got X='nan'"),
    "no X": (COORDINATE.replace('X="10"', "", 1), "line 3: got X=None"),
    "cut JSON": ('{"positive": [\n{"name": "a", "vert', "line 2: neither well-formed JSON"),
    "empty": ("", "line 1: neither well-formed JSON .* nor XML"),
    "no text": (b"\x80\x81\x82\xff" * 9, "not a text file in Unicode.*ASAP"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not a text file in Unicode.*ASAP"),
    "gzip": (b"\x1f\x8b\x08\0", "compressed with gzip; unpack it"),
    "too deep": ("[" * 100_000, "nested too deep"),
    "long number": ("[" + "9" * 9999 + "]", "a number is too long"),
    "other JSON": ({"shapes": []}, "neither NCRF's .* nor GeoJSON"),
    "a number": ("7", "neither NCRF's"),
    "no list": ({"positive": {"name": "a"}}, "positive: got"),
    "no vertices": ({"positive": [{"name": "a"}]}, "positive 1: got None for vertices"),
    "text vertices": ({"positive": [{"vertices": "abc"}]}, "got 'abc' for vertices"),
    "text vertex": ({"positive": [{"vertices": [["1", "2"]]}]}, r"got \['1', '2'\] for a vertex"),
    "NaN in JSON": ('{"positive": [{"vertices": [[NaN, 1]]}]}', "for a vertex"),
    "infinite": ('{"positive": [{"vertices": [[1, 1e999]]}]}', "for a vertex"),
    "one number": ({"negative": [{"vertices": [[1]]}]}, r"negative 1: got \[1\]"),
    "features": ({"type": "FeatureCollection", "features": None}, "features: got None"),
    "no feature": ([feature(polygon(SQUARE)), 5], "feature 2: got 5"),
    "topology": ([{"type": "Topology"}], "feature 1: got"),
    "curve": ([feature({"type": "Circle"})], "feature 1: got 'Circle'"),
    "no rings": (
        [feature({"type": "Polygon", "coordinates": 3})],
        "feature 1: got 3, expected a li",
    ),
    "flat ring": (
        [feature({"type": "Polygon", "coordinates": [[1, 2], [3, 4]]})],
        "feature 1: got 1 for a vertex",
    ),
    "text geometry": ([feature("Polygon")], "feature 1: got .*Polygon.* GeoJSON geometry"),
    "odd geometry": ([feature({"type": {"a": 1}})], "expected a GeoJSON geometry"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, what: str) -> None:
    text, words = BAD[what]
    with pytest.raises(AnnotationError, match=words) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "slide.json"))
    assert len(str(caught.value)) < 400


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.xml", tmp_path):
        with pytest.raises(AnnotationError, match="cannot be read"):
            load_annotations(path)


# Camelyon16


def test_the_points_of_tumour_lie_in_the_polygons_of_their_slides(real_data: Path) -> None:
    folder = real_data / "camelyon16"
    points: dict[str, list[tuple[float, float]]] = {}
    with (folder / "tumor_points.csv").open(newline="") as file:
        for slide, x, y in csv.reader(file):  # the file has no header
            points.setdefault(slide.lower(), []).append((float(x), float(y)))
    inside = 0
    for slide, xy in points.items():
        lesions = load_annotations(folder / f"{slide}.json").tumour()
        union = shapely.union_all(lesions)
        inside += int(shapely.contains_xy(union, *np.array(xy).T).sum())
    total = sum(map(len, points.values()))
    assert total == 6000
    assert inside == 5999  # 99.98 %; the other one lies on the line, of slide 103


def test_every_real_file_is_read_and_tissue_is_not_taken_for_tumour(real_data: Path) -> None:
    found = {
        path.stem: load_annotations(path)
        for path in sorted((real_data / "camelyon16").glob("*.json"))
    }
    assert len(found) == 15
    for name, each in found.items():
        assert each.regions
        assert bool(each.tumour()) == name.startswith("tumor")
    repaired = {name: each.problems for name, each in found.items() if each.problems}
    assert repaired == {
        "tumor_101": ("Tumor2: self-intersection at (36623, 44938): repaired, 2 polygons",),
        "tumor_103": ("Tumor1: self-intersection at (36157, 18681): repaired, 1 polygon",),
    }
