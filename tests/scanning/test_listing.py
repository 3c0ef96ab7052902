"""What the arguments of a batch name, and what their maps are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidescan.errors import ConfigError
from slidescan.scanning.listing import Entry, name_maps, read_arguments, read_list


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("2023/x.svs", "2024/x.svs", "2024/y.tif"):
        path = tmp_path / "archive" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "archive"


def test_files_folders_and_patterns_name_each_slide_once(archive: Path) -> None:
    arguments = (Path("archive/2024/y.tif"), archive, Path("archive/**/*.svs"))
    found = [entry.slide.relative_to(archive).as_posix() for entry in read_arguments(arguments)]
    assert found == ["2024/y.tif", "2023/x.svs", "2024/x.svs"]


def test_what_names_no_slide_is_refused(archive: Path) -> None:
    (archive / "empty").mkdir()
    (archive / "map").mkdir()
    (archive / "map" / "zarr.json").touch()
    for argument, word in (("empty", "no slides"), ("map", "is a map"), ("*.ndpi", "no file")):
        with pytest.raises(ConfigError, match=word):
            read_arguments([archive / argument])
    missing = archive / "missing.svs"
    assert read_arguments([missing]) == [Entry(missing)]  # fails alone, when its turn comes


def test_a_list_with_its_columns(archive: Path) -> None:
    table = archive / "study.csv"
    table.write_text(
        "Slide;name;MPP;group;annotation;state\n"
        "2023/x.svs;first;0,25;A;x.xml;odd\n"
        "archive/2024/x.svs;;;B;;\n"
        "2024/y.tif;;quarter;B;;\n"
        ";;;;;\n",
        encoding="utf-8-sig",
    )
    first, second, third = read_arguments([table])
    carried = {"group": "A", "annotation": "x.xml"}  # state is a column of the manifest
    assert first == Entry(archive / "2023/x.svs", "first", 0.25, carried)
    assert second.slide == archive / "2024/x.svs"  # beside the list there is none
    assert (second.name, second.mpp, second.problem) == (None, None, "")
    assert "'quarter' in row 4 of study.csv" in third.problem


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("path,mpp\nx.svs,1\n", "has the columns path, mpp"),
        ("", "has the columns none"),
        ("slide\n", "lists no slides"),
        ("slide,name\n,x\n", "row 2 names no slide"),
        ("slide,slide\nx,y\n", "needs one called slide"),
    ],
)
def test_lists_that_are_refused(text: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ConfigError, match=word):
        read_list(tmp_path / "list.csv")


def test_names_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "slide,name\na.svs,../a\nb.svs,same\nc.svs,SAME\nd.svs,d\nd.svs,again\nd.svs,,1\n"
    )
    entries = read_arguments([tmp_path / "list.csv"])
    problems = [entry.problem for entry in entries]
    assert "name '../a' in row 2" in problems[0]
    assert f"that of {tmp_path / 'b.svs'}" in problems[2]
    # A slide may have several maps, by several names; further rows without a name are the same.
    assert [entry.name for entry in entries[3:]] == ["d", "again"]


def names(*paths: str, known: dict[str, str] | None = None) -> list[str]:
    return name_maps([Entry(Path(path)) for path in paths], known or {})


def test_equal_names_get_those_of_their_folders() -> None:
    assert names("/a/x.svs", "/a/b/y.svs") == ["x", "y"]
    assert names("/a/x.svs", "/b/x.svs", "/b/X.tif") == ["a-x", "x-svs", "X-tif"]
    assert names("/1/a/x.svs", "/2/a/x.svs") == ["1-a-x", "2-a-x"]
    assert names("/study/case7/000.dcm", "/study/case8/000.dcm") == ["case7", "case8"]


def test_a_slide_keeps_the_name_that_the_manifest_has(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "x.svs", tmp_path / "new" / "x.svs"
    old.parent.mkdir()
    old.touch()
    known = {"x": str(old)}
    assert names(str(new), str(old), known=known) == ["new-x", "x"]
    old.unlink()  # moved: its map is the new one's
    assert names(str(new), known=known) == ["x"]


part = st.text("ab", min_size=1, max_size=2)


@settings(max_examples=40)
@given(st.sets(st.tuples(part, part, st.sampled_from([".svs", ".tif", ".dcm"])), max_size=12))
def test_names_are_unique_and_do_not_depend_on_the_order(slides: set[tuple[str, str, str]]) -> None:
    paths = sorted(os.path.join("/", folder, stem + ending) for folder, stem, ending in slides)
    found = names(*paths)
    assert len({name.casefold() for name in found}) == len(paths)
    assert names(*reversed(paths)) == found[::-1]
    known = dict(zip(found, paths, strict=True))
    assert names(*paths[1:], known=known) == found[1:]
