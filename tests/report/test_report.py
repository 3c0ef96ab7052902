"""`slidescan report`: what the pages show, and that they need and run nothing."""

from __future__ import annotations

import base64
import re
import shutil
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slides
from commands import ran, refused, run
from maps import write_map
from models import OPERATING, save
from numpy.typing import NDArray
from PIL import Image

from slidescan.geometry import Box
from slidescan.maps.regions import Rule
from slidescan.maps.store import Heatmap
from slidescan.models import model
from slidescan.models.card import read_card
from slidescan.models.identity import identity_of
from slidescan.protocols import no_bar
from slidescan.report.content import Choices, gather
from slidescan.report.tally import tally
from slidescan.slides.slide import Slide
from slidescan.tools.settings_diff import JSON

SHAPE = 88, 113
"""Cells of the section."""

HOSTILE = '<img src=x onerror=alert(1)> & "b"\'{{ 7 * 7 }}.tif'
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """The elements of a page, and its text; fails where tags are not balanced."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [
            found
            for name, found in self.elements
            if name == tag and all(found.get(key) == value for key, value in wanted.items())
        ]

    def picture(self, start: str) -> NDArray[np.uint8]:
        found = next(each for each in self.all("img") if each["alt"].startswith(start))
        data = base64.b64decode(found["src"].partition("base64,")[2])
        return np.asarray(Image.open(BytesIO(data)))


def cells(*peaks: tuple[int, int, float]) -> NDArray[np.float32]:
    """Tissue in the left half; around each peak 5 x 5 cells of 0.8 and in the middle its value."""
    values = np.full(SHAPE, np.nan, np.float32)
    values[:, :60] = 0.1
    for row, column, value in peaks:
        values[row - 2 : row + 3, column - 2 : column + 3] = 0.8
        values[row, column] = value
    return values


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """slides/board.tif, 0.486 um/px with a colour per square, and maps/board.zarr."""
    root = tmp_path_factory.mktemp("report")
    (root / "slides").mkdir()
    (root / "maps").mkdir()
    board = slides.checkerboard(1400, 1800, side=100)
    slides.write_slide(root / "slides" / "board.tif", board, mpp=0.486, levels=(4,))
    values = cells((20, 10, 0.9), (60, 40, 0.95))
    write_map(root / "maps" / "board.zarr", root / "slides" / "board.tif", values)
    return root


def report(study: Path, out: Path, *more: object) -> Page:
    ran(
        *("report", study / "maps" / "board.zarr", "--slide", study / "slides" / "board.tif"),
        *("--out", out, *more),
    )
    return Page(out)


def mapped(root: Path, values: NDArray[np.float32], **changes: Any) -> tuple[object, ...]:
    """A map of a slide in `root`, as the arguments that report it."""
    slides.write_slide(root / "s.tif", slides.section(700, 900), mpp=0.972)
    write_map(root / "m.zarr", root / "s.tif", values, **changes)
    return "report", root / "m.zarr", "--slide", root / "s.tif", "--out", root / "r.html"


def test_a_page_shows_regions_hottest_first_at_their_place(study: Path, tmp_path: Path) -> None:
    page = report(study, tmp_path / "r.html")
    rows = [each["id"] for each in page.all("tr") if "id" in each]
    assert rows == ["region-1", "region-2"]
    # Cell (60, 40) has its centre at 484, 324 px of the scan plane: twice that on level 0.
    assert "968" in page.text
    assert re.search(r"648,\s+968", page.text)
    pins = [each["style"] for each in page.all("a", **{"class": "pin"})]
    # In percent of 900 x 700 px; those drawn last lie above.
    assert pins[-1] == f"left:{100 * 324 / 900:.2f}%;top:{100 * 484 / 700:.2f}%"
    assert "0.950" in page.text
    area = 25 * 7.776**2 / 1e6
    assert f"{area:.4f}" in page.text


def test_a_crop_has_the_pixels_of_the_slide_around_the_hottest_cell(
    study: Path, tmp_path: Path
) -> None:
    crop = report(study, tmp_path / "r.html").picture("Region 1").astype(int)
    side = round(128 / 0.486)
    assert crop.shape == (side, side, 3)
    board = slides.checkerboard(1400, 1800, side=100).astype(int)
    top, left = 968 - side // 2, 648 - side // 2
    there = board[top : top + side, left : left + side]
    assert np.abs(crop - there).mean() < 6  # JPEG; a square of another colour is 30 or more off


def test_the_map_lies_on_the_slide(study: Path, tmp_path: Path) -> None:
    page = report(study, tmp_path / "r.html")
    plain, drawn, tissue = (
        page.picture(name).astype(int) for name in ("The slide", "The slide under", "Tissue")
    )
    assert plain.shape == drawn.shape == (700, 900, 3)
    apart = np.abs(plain - drawn).mean(-1)
    # Cells (58 to 62, 38 to 42): rows 464 to 504, columns 304 to 344.
    assert apart[466:502, 306:342].min() > 10
    assert apart[440:460, 306:342].max() < apart[466:502, 306:342].min()
    assert np.abs(plain - drawn)[:, 500:].mean() < 1, "not scanned, so not tinted"
    small = np.asarray(Image.fromarray(plain.astype(np.uint8)).resize(tissue.shape[1::-1]))
    faded = np.abs(small.astype(int) - tissue)
    assert faded[:, 275:].mean() > 30, "not tissue"
    assert faded[:, :260].mean() < 10


def test_the_bounds_of_a_slide_are_shown_and_positions_stay_those_of_level_0(study: Path) -> None:
    heatmap = Heatmap.open(study / "maps" / "board.zarr")
    with Slide.open(study / "slides" / "board.tif") as slide:
        slide.bounds_l0 = Box(200, 400, 1400, 1600)  # as MIRAX slides have them
        found = gather(heatmap, slide, Choices(Rule(0.5)), 1, no_bar)
    assert {picture.size_px for picture in found.pictures} == {(600, 600)}
    hottest = found.regions[0]
    assert hottest.crop.centre_l0 == (648, 968)
    # In percent of the bounds, of which the first cells are cut off.
    assert hottest.pin == pytest.approx((100 * (648 - 400) / 1200, 100 * (968 - 200) / 1200))


@pytest.mark.parametrize("of", ["page", "index"])
def test_pages_need_and_run_nothing_else(of: str, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran("report", study / "maps", "--slides", study / "slides", "--out", out)
    page = Page(out / ("board.html" if of == "page" else "index.html"))
    for tag, found in page.elements:
        assert tag not in ("link", "iframe", "object", "base")
        assert found.get("src", "data:image/").startswith("data:image/")
        assert found.get("href", "#").startswith(("#", "./"))
        assert not [name for name in found if name.startswith("on")]
    assert "url(" not in (out / "index.html").read_text()
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'; img-src data:")
    assert "Research use only" in page.text


def test_names_are_escaped(study: Path, tmp_path: Path) -> None:
    slides_there, maps = tmp_path / "slides", tmp_path / "maps"
    slides_there.mkdir()
    maps.mkdir()
    shutil.copy(study / "slides" / "board.tif", slides_there / HOSTILE)
    closing = f"</td></script>{HOSTILE}"
    hostile = {"command": closing, "versions": {closing: closing}, "started": closing}
    write_map(
        maps / f"{HOSTILE}.zarr",
        slides_there / HOSTILE,
        cells((20, 10, 0.9)),
        model={"name": HOSTILE, "sha256": "ab" * 32},
        provenance=hostile,
    )
    out = tmp_path / "out"
    ran("report", maps, "--slides", slides_there, "--out", out)
    for page in out.glob("*.html"):
        found = Page(page)
        assert HOSTILE in found.text
        assert len(found.all("script")) == (page.name == "index.html")
    link = Page(out / "index.html").all("a")[0]
    assert "<" not in link["href"]


def test_a_slide_is_looked_for_by_its_name_alone(study: Path, tmp_path: Path) -> None:
    slide = study / "slides" / "board.tif"
    (tmp_path / "empty").mkdir()
    write_map(tmp_path / "m.zarr", slide, cells(), provenance={"slide": str(slide)})
    result = run(
        "report", tmp_path / "m.zarr", "--slides", tmp_path / "empty", "--out", tmp_path / "o"
    )
    assert result.exit_code == 1
    assert f"{tmp_path / 'empty' / 'board.tif'}: no such file" in result.stderr


def test_a_map_without_regions_says_that_it_proves_nothing(tmp_path: Path) -> None:
    ran(*mapped(tmp_path, cells()))
    page = Page(tmp_path / "r.html")
    assert "does not mean that the slide holds no tumour" in page.text
    assert not page.all("table", **{"class": "regions stack"})


def test_a_map_without_tissue_warns(tmp_path: Path) -> None:
    ran(*mapped(tmp_path, np.full(SHAPE, np.nan, np.float32)))
    page = Page(tmp_path / "r.html")
    assert "No tissue was found" in page.text
    assert "no cell has a value" in page.text


def test_what_a_map_records_is_warned_of(tmp_path: Path) -> None:
    gaps = np.zeros(SHAPE, np.bool_)
    gaps[50:60, 20:30] = True
    unlike: JSON = {"score": 2.5, "figure": "sharpness", "patches": 40}
    values = cells()
    values[gaps] = np.nan
    recorded: JSON = {"unlike": unlike, "damaged": {"blocks": 3, "listed": []}}
    ran(*mapped(tmp_path, values, gaps=gaps, provenance=recorded))
    text = Page(tmp_path / "r.html").text
    assert "unlike the training patches in sharpness" in text
    assert "Pixels of the slide are missing or damaged: 100 cells" in text
    assert "3 blocks of the slide's file are or look damaged" in text


def test_a_map_that_leaves_out_damage_is_reported_without_it(tmp_path: Path) -> None:
    gaps = np.zeros(SHAPE, np.bool_)
    gaps[:25, :25] = True
    values = cells((60, 40, 0.9))
    values[gaps] = np.nan
    slides.write_slide(tmp_path / "s.tif", slides.section(700, 900), mpp=0.972)
    slides.spoil_tile(tmp_path / "s.tif", 0, 0)
    write_map(tmp_path / "m.zarr", tmp_path / "s.tif", values, gaps=gaps, damaged="skip")
    out = tmp_path / "r.html"
    ran("report", tmp_path / "m.zarr", "--slide", tmp_path / "s.tif", "--out", out)
    assert "missing or damaged: 625 cells" in Page(out).text


@pytest.mark.parametrize("unlike", [7, {"score": 2.5}, {"score": 2.5, "figure": "x", "patches": 1}])
def test_a_record_that_cannot_be_read_warns_of_nothing(unlike: JSON, tmp_path: Path) -> None:
    ran(*mapped(tmp_path, cells(), provenance={"unlike": unlike, "versions": [], "last_run": 3}))
    assert "Warnings" not in Page(tmp_path / "r.html").text


@pytest.mark.usefixtures("small_blocks")
def test_an_unfinished_map_needs_partial(tmp_path: Path) -> None:
    arguments = mapped(tmp_path, cells((20, 10, 0.9)), blocks=1)
    refused(run(*arguments), "m.zarr", "has not finished", "--partial")
    assert not (tmp_path / "r.html").exists()
    ran(*arguments, "--partial")
    text = Page(tmp_path / "r.html").text
    assert f"{32 * 32 / (88 * 60):.1%} of the selected cells" in text


def test_the_card_of_a_model_is_found(tiny_model: Path, tmp_path: Path) -> None:
    network = model.load(str(tiny_model))
    other = save(tmp_path / "other.safetensors", network.network, operating=OPERATING)
    arguments = mapped(tmp_path, cells((20, 10, 0.66)), model=identity_of(read_card(str(other))))
    ran(*arguments)
    assert "not at hand" in Page(tmp_path / "r.html").text
    ran(*arguments, "--model", other, "--threshold", "sens90", "--overwrite")
    text = Page(tmp_path / "r.html").text
    assert "not at hand" not in text
    assert "at least 0.65 (sens90 of the model)" in text


def test_one_bad_map_does_not_stop_the_others(study: Path, tmp_path: Path) -> None:
    maps = Path(shutil.copytree(study / "maps", tmp_path / "maps"))
    write_map(
        maps / "lost.zarr",
        study / "slides" / "board.tif",
        cells(),
        provenance={"slide": "gone.tif"},
    )
    out = tmp_path / "out"
    result = run("report", maps, "--slides", study / "slides", "--out", out)
    assert result.exit_code == 1
    assert "1 of 2 maps failed" in result.stderr
    index = Page(out / "index.html")
    assert "lost.zarr" in index.text
    assert index.all("a", href="./board.html")
    assert Page(out / "board.html").all("a", href="./index.html")


def test_an_index_has_the_hottest_slide_first(study: Path, tmp_path: Path) -> None:
    maps = Path(shutil.copytree(study / "maps", tmp_path / "maps"))
    slide = study / "slides" / "board.tif"
    write_map(maps / "a.zarr", slide, cells())
    write_map(maps / "empty.zarr", slide, np.full(SHAPE, np.nan, np.float32))
    ran("report", maps, "--slides", study / "slides", "--out", tmp_path / "out")
    links = [each["href"] for each in Page(tmp_path / "out" / "index.html").all("a")]
    assert links[::2] == ["./board.html", "./a.html", "./empty.html"]


def test_a_report_is_replaced_only_on_request(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    out.write_text("mine")
    arguments = ("report", study / "maps" / "board.zarr", "--slide", study / "slides" / "board.tif")
    refused(run(*arguments, "--out", out), "r.html: exists", "--overwrite")
    assert out.read_text() == "mine"
    report(study, out, "--overwrite")
    ran("report", study / "maps", "--slides", study / "slides", "--out", tmp_path / "out")
    again = run("report", study / "maps", "--slides", study / "slides", "--out", tmp_path / "out")
    refused(again, "index.html: exists")


def test_two_maps_of_one_name_are_refused(study: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(study / "maps", tmp_path / "maps"))
    arguments = ("--slides", study / "slides", "--out", tmp_path / "out")
    refused(run("report", study / "maps", other, *arguments), "board.html")
    (other / "board.zarr").rename(other / "index.zarr")
    refused(run("report", other, *arguments), "index.html")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((), "either --slide or --slides"),
        (("--slide", "s.tif", "--slides", "s"), "either --slide or --slides"),
        (("--slides", "{study}/slides", "--out", "r.html"), "--out r.html is one page"),
    ],
)
def test_wrong_usage(given: tuple[str, ...], told: str, study: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(study / "maps", tmp_path / "maps"))
    result = run("report", study / "maps", other, *(each.format(study=study) for each in given))
    assert result.exit_code == 2
    assert told in result.stderr


@pytest.mark.usefixtures("small_blocks")
def test_a_tally_is_that_of_all_values_at_once(study: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(SHAPE, np.float32)
    values[40:] = np.nan
    write_map(tmp_path / "m.zarr", study / "slides" / "board.tif", values)
    found = tally(Heatmap.open(tmp_path / "m.zarr"), 0.7)
    p = values[:40].astype(float)
    assert (found.cells, found.above) == (p.size, np.count_nonzero(values[:40] >= 0.7))
    assert found.highest == p.max()
    assert found.mean == pytest.approx(p.mean())
    assert found.top_mean == pytest.approx(np.sort(p, axis=None)[-100:].mean())
    assert found.counts.tolist() == np.histogram(p, 50, (0, 1))[0].tolist()
