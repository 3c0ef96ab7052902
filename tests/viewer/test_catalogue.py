"""Which slides and maps are offered, and what belongs together."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import annotation_files
import pytest
import slides
from starlette.testclient import TestClient
from viewing import ask, begin, described, finish

from slidescan.errors import MapError, SlideError
from slidescan.scanning.manifest import DONE, FAILED, Manifest
from slidescan.viewer import catalogue
from slidescan.viewer.catalogue import Catalogue, sort_paths
from slidescan.viewer.state import State


@pytest.fixture
def folder(tmp_path: Path, section: Path) -> Path:
    """Two slides, a map of the first, an unreadable map and a file of somebody else."""
    folder = tmp_path / "cohort"
    folder.mkdir()
    shutil.copy(section, folder / "a.tif")
    slides.write_slide(folder / "b.tif", slides.checkerboard(200, 300), mpp=0.5)
    finish(*begin(folder / "a.zarr", folder / "a.tif"))
    (folder / "c.zarr").mkdir()
    (folder / "c.zarr" / "zarr.json").write_text("{}")
    (folder / "notes.txt").write_text("private")
    return folder


def listed(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/api/slides").json()
    return found


def test_a_folder_lists_its_slides_and_their_maps(folder: Path) -> None:
    with ask(folder) as client:
        found = listed(client)
    assert found["title"] == "cohort"
    assert found["folder"]
    assert [slide["name"] for slide in found["slides"]] == ["a.tif", "b.tif"]
    (shown,) = found["slides"][0]["maps"]
    assert (shown["name"], shown["complete"]) == ("a", True)
    assert shown["tissue_mm2"] == pytest.approx((88 * 113 - 21 * 25) * (8 * 0.972e-3) ** 2)
    assert found["slides"][1]["maps"] == []
    assert "c.zarr" in found["warnings"][0]


def test_maps_that_are_added_appear(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "LISTED_S", 0.0)
    with ask(folder) as client:
        assert listed(client)["slides"][1]["maps"] == []
        begin(folder / "b.zarr", folder / "b.tif")[0].close()
        (shown,) = listed(client)["slides"][1]["maps"]
        assert not shown["complete"]
        assert client.get(f"/api/maps/{shown['id']}").status_code == 200


def test_slides_and_maps_may_lie_apart(folder: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    (folder / "a.zarr").rename(maps / "a.zarr")
    with ask(folder, maps) as client:
        assert described(client)["maps"][0]["name"] == "a"


def test_a_slide_that_has_moved_is_listed_with_the_remedy(folder: Path) -> None:
    (folder / "a.tif").rename(folder.parent / "a.tif")
    with ask(folder) as client:
        entry = listed(client)["slides"][0]
        assert (entry["state"], entry["thumbnail"]) == ("error", None)
        assert "moved" in entry["error"]
        assert client.get(f"/api/slides/{entry['id']}").status_code == 404
        assert described(client, 1)["name"] == "b.tif"
    with ask(folder, folder.parent / "a.tif") as client:
        assert described(client)["maps"][0]["name"] == "a"


def test_the_manifest_says_where_the_slides_are(folder: Path, tmp_path: Path) -> None:
    (folder / "maps").mkdir()
    (folder / "a.zarr").rename(folder / "maps" / "a.zarr")
    (folder / "maps" / "manifest.csv").write_text(
        "slide,map,status,message,rows,columns,scanned,seconds\na.tif,a.zarr,done,,1,1,1,1\n"
    )
    with ask(folder / "maps") as client:
        assert listed(client)["slides"][0]["state"] == "ok"
        assert described(client)["maps"][0]["name"] == "a"


def test_the_manifest_gives_scores_and_failures(folder: Path) -> None:
    manifest = Manifest(folder)
    row = {"state": DONE, "highest": "0.7654", "slide": str(folder / "a.tif")}
    manifest.record("a.zarr", row)
    manifest.record("b.zarr", {"state": FAILED, "slide": "b.tif", "reason": "no tissue at all"})
    manifest.flush()
    with ask(folder) as client:
        found = listed(client)
    assert found["slides"][0]["maps"][0]["highest"] == 0.7654
    assert "b.tif: not scanned: no tissue at all" in found["warnings"]


def test_of_slides_with_one_name_the_manifest_says_which(folder: Path, tmp_path: Path) -> None:
    (folder / "other").mkdir()
    slides.write_slide(folder / "other" / "a.tif", slides.checkerboard(200, 300), mpp=0.5)
    finish(*begin(folder / "x.zarr", folder / "other" / "a.tif"))
    manifest = Manifest(folder)
    manifest.record("a.zarr", {"state": DONE, "slide": str(folder / "a.tif")})
    manifest.record("x.zarr", {"state": DONE, "slide": str(folder / "other" / "a.tif")})
    manifest.flush()
    with ask(folder) as client:
        shown = [[each["name"] for each in slide["maps"]] for slide in listed(client)["slides"]]
    assert sorted(shown) == [[], ["a"], ["x"]]


def test_a_map_finds_the_slide_beside_it(folder: Path) -> None:
    with ask(folder / "a.zarr") as client:
        assert listed(client)["title"] == "a.tif"
        assert described(client)["maps"][0]["name"] == "a"
    (folder / "a.tif").unlink()
    with pytest.raises(SlideError, match=r"a\.tif is not beside it"):
        sort_paths([folder / "a.zarr"], (), None)


def test_the_map_of_another_slide_is_refused(folder: Path, tmp_path: Path) -> None:
    state = State(Catalogue(sort_paths([folder / "b.tif", folder / "a.zarr"], (), None)))
    with pytest.raises(MapError, match=r"made from a\.tif, and .*b\.tif is another"):
        state.check()
    other = tmp_path / "other"
    other.mkdir()
    shutil.copytree(folder / "a.zarr", other / "a.zarr")
    shutil.copy(folder / "b.tif", other / "a.tif")
    with ask(other) as client:
        found = described(client)
    assert found["maps"] == []
    assert "another slide" in found["warnings"][0]


def test_a_slide_under_another_name_is_known_by_its_fingerprint(folder: Path) -> None:
    (folder / "a.tif").rename(folder / "renamed.tif")
    with ask(folder / "renamed.tif", folder / "a.zarr") as client:
        assert described(client)["maps"][0]["name"] == "a"


def test_an_address_changes_when_the_slide_does(folder: Path) -> None:
    with ask(folder / "b.tif") as client:
        before = described(client)["id"]
    with ask(folder / "b.tif") as client:
        assert described(client)["id"] == before
    state = (folder / "b.tif").stat()
    os.utime(folder / "b.tif", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    with ask(folder / "b.tif") as client:
        assert described(client)["id"] != before


def test_a_slide_that_cannot_be_opened_leaves_the_others(folder: Path) -> None:
    (folder / "b.tif").write_bytes(b"no slide")
    with ask(folder) as client:
        entry = listed(client)["slides"][1]
        answer = client.get(f"/api/slides/{entry['id']}")
        assert answer.status_code == 503
        assert "not a slide" in answer.json()["error"]
        assert described(client)["name"] == "a.tif"


def test_annotations_of_a_folder_go_by_the_names_of_slides(folder: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    for name in "a.xml", "other.xml":
        square = ("s", "Tumor", annotation_files.SQUARE)
        (drawn / name).write_text(annotation_files.asap(square))
    with ask(folder, annotations=(drawn,)) as client:
        assert [each["name"] for each in described(client)["annotations"]] == ["a.xml"]
        assert described(client, 1)["annotations"] == []
