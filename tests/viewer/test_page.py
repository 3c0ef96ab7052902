"""The viewer's page in Chromium: what its pixels show, and what it asks its server for."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import slides
from numpy.typing import NDArray
from pages import Pixels, Visit, chromium, edges, served, until, visited
from viewer_processes import serving_process

from slidescan.geometry import Box, Grid
from slidescan.maps import layout
from slidescan.maps.store import Heatmap
from slidescan.slides import properties
from slidescan.slides.slide import Slide

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

MPP = 0.972
CELL = 8 * MPP / 0.25  # level-0 px of the slides below
SIDE = 6 * CELL
SHAPE = 2311, 3107
YELLOW = 253, 231, 37  # viridis at 1


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def create(path: Path, slide_path: Path) -> Heatmap:
    """An empty map of a slide, open for writing; every cell is to be scanned."""
    with Slide.open(slide_path) as slide:
        grid = Grid(slide.plane(MPP).shape_px)
        recorded = {
            "fingerprint": slide.fingerprint,
            "mpp": list(slide.mpp),
            "extent_l0": list(slide.extent_l0),
        }
    return Heatmap.create(
        path,
        grid=grid,
        mpp=MPP,
        mask=np.ones(grid.shape, np.bool_),
        settings={"slide": recorded, "model": {"name": "tiny", "sha256": "ab" * 32}},
        provenance={"slide": slide_path.name},
    )


def finish(made: Heatmap, values: NDArray[np.float32]) -> Path:
    for block in list(made.missing()):
        made.write(block, values[block.slices])
    made.finish({})
    made.close()
    return made.path


@pytest.fixture(scope="module")
def checkerboard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A slide of black and white squares, and a map that is 1 on the black ones, 0 on the others.

    The slide's levels are 2 and 5.11 times smaller; those of scanners are not powers of two either.
    """
    folder = tmp_path_factory.mktemp("checkerboard")
    y, x = (np.floor((np.arange(extent) + 0.5) / SIDE).astype(int) for extent in SHAPE)
    grey = np.where((y[:, None] + x) % 2, 20, 235).astype(np.uint8)
    slides.write_slide(folder / "slide.tif", np.stack([grey] * 3, axis=-1), levels=(2, (452, 608)))
    made = create(folder / "map.zarr", folder / "slide.tif")
    rows, columns = made.grid.shape
    values = (np.arange(rows)[:, None] // 6 + np.arange(columns) // 6) % 2
    return folder / "slide.tif", finish(made, values.astype(np.float32))


@pytest.fixture
def visit(checkerboard: tuple[Path, Path], browser: Browser) -> Iterator[Visit]:
    with served(*checkerboard) as address, visited(browser, address) as found:
        yield found


def is_yellow(pixels: Pixels) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = np.abs(pixels.astype(int) - YELLOW).max(axis=2) < 3
    return found


def offset_px(visit: Visit, place: tuple[float, float, float]) -> float:
    """The largest distance between an edge of the slide and that of the map, px of the screen."""
    visit.show(place, shown=False)
    visit.bare()
    grey = visit.settled().mean(axis=2)
    visit.show(place)
    visit.bare()
    covered = visit.settled()
    assert is_yellow(covered).any(), "no map"
    blue = covered[..., 2].astype(float)  # 37 under the map, 235 beside it
    distances = []
    for axis, extent in enumerate(grey.shape):
        for line in range(17):  # along the middles of squares
            at = round(extent / 2 + ((line + 0.5) * SIDE - place[1 - axis]) * place[2])
            if 0 <= at < extent:
                ours, theirs = edges(blue.take(at, axis), 136), edges(grey.take(at, axis), 127)
                distances.extend(np.abs(theirs - each).min() for each in ours if each > 3)
    assert len(distances) >= 3
    return float(max(distances))


# Most of the slide; between two levels; the slide's own px; its lower right corner, where drift
# would be largest.
PLACES = (1553, 1155, 0.21), (1553, 1155, 0.63), (1000, 700, 3.0), (2700, 2000, 1.3)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_the_map_lies_on_the_slide(visit: Visit, place: tuple[float, float, float]) -> None:
    # A square begins between two px of the slide, which is up to half a px off; and a px of the
    # screen where it is drawn.
    assert offset_px(visit, place) <= 1 + 0.5 * place[2]


def test_the_map_lies_on_a_slide_with_bounds(
    checkerboard: tuple[Path, Path], browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Level-0 px count from the slide's corner, not from that of its bounds."""
    monkeypatch.setattr(properties, "find_bounds", lambda *_: Box(411, 733, 2011, 2633))
    with served(*checkerboard) as address, visited(browser, address) as visit:
        assert visit.slide()["bounds"] == [733, 411, 1900, 1600]
        assert offset_px(visit, (1683, 1211, 0.63)) <= 1 + 0.5 * 0.63


def test_a_half_transparent_map_has_no_seams(tmp_path: Path, browser: Browser) -> None:
    white = np.full((400, 8700, 3), 250, np.uint8)  # 280 columns of cells: two tiles
    slides.write_slide(tmp_path / "slide.tif", white)
    made = create(tmp_path / "map.zarr", tmp_path / "slide.tif")
    finish(made, np.full(made.grid.shape, 0.7, np.float32))
    with served(tmp_path / "slide.tif", made.path) as address, visited(browser, address) as visit:
        visit.show((256 * CELL + 0.3, 200, 0.837), opacity=0.5)
        visit.bare()
        pixels = visit.settled()
    middle = pixels.shape[0] // 2
    inside = pixels[middle - 100 : middle + 100, : pixels.shape[1] * 3 // 4]
    assert (inside == inside[0, 0]).all()
    assert inside[0, 0].min() < 240


def test_a_cell_without_a_value_is_transparent(tmp_path: Path, browser: Browser) -> None:
    slides.write_slide(tmp_path / "slide.tif", np.full((600, 600, 3), 250, np.uint8))
    with (
        create(tmp_path / "map.zarr", tmp_path / "slide.tif") as made,
        served(tmp_path / "slide.tif", made.path) as address,
        visited(browser, address) as visit,
    ):
        visit.show((300, 300, 1), cut=False)
        visit.bare()
        middle = slice(300, 400), slice(350, 450)
        until(lambda: (visit.now()[middle] >= 249).all(), visit.page)
        visit.page.wait_for_timeout(500)
        assert (visit.now()[middle] >= 249).all()


def test_sliders_change_the_picture_and_ask_for_nothing(visit: Visit) -> None:
    visit.show((1553, 1155, 0.63))
    page = visit.page
    page.locator(".regions button").first.wait_for()
    before = visit.settled()
    visit.requests.clear()
    opacity = page.get_by_label("Opacity", exact=True)
    opacity.focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    fainter = visit.settled()
    page.get_by_label("Colour map").select_option("inferno")
    other = visit.settled()
    assert (before != fainter).any()
    assert (fainter != other).any()
    moved = "slider => { slider.value = '1'; slider.dispatchEvent(new Event('input')) }"
    page.get_by_label("Threshold", exact=True).evaluate(moved)
    until(lambda: not is_yellow(visit.now()).any(), page)
    page.get_by_text("Range of the colours").click()
    page.get_by_label("Last colour at", exact=True).fill("0.9")
    page.get_by_label("Opacity, number").fill("0,25")
    assert not [url for url in visit.requests if "/api/" in url]
    assert opacity.input_value() == "0.25"
    page.get_by_label("Opacity, number").fill("1,5")
    assert page.get_by_label("Opacity, number").get_attribute("aria-invalid") == "true"
    assert opacity.input_value() == "0.25"


def test_the_area_above_the_threshold(tmp_path: Path, browser: Browser) -> None:
    slides.write_slide(tmp_path / "slide.tif", np.full((1000, 1500, 3), 250, np.uint8))
    made = create(tmp_path / "map.zarr", tmp_path / "slide.tif")
    values = np.random.default_rng(0).random(made.grid.shape, np.float32)
    finish(made, values)
    with (
        served(tmp_path / "slide.tif", made.path) as address,
        visited(browser, address, locale="de-DE") as visit,
    ):
        number = visit.page.get_by_label("Threshold, number")
        said = visit.page.locator("output.area")
        for text, threshold in (("0,25", 0.25), ("0.4", 0.4)):
            number.fill(text)
            area = np.count_nonzero(values >= threshold) * (8 * MPP / 1000) ** 2
            german = f"{area:#.2g} mm²".replace(".", ",")
            until(lambda german=german: german in said.inner_text(), visit.page)  # type: ignore[misc]
        number.press("Enter")
        assert number.input_value() == "0,400"


def test_a_map_fills_in_while_it_is_written(
    checkerboard: tuple[Path, Path],
    tmp_path: Path,
    browser: Browser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(layout, "BLOCK_CELLS", 32)
    monkeypatch.setattr(layout, "CHUNK_CELLS", 16)
    made = create(tmp_path / "map.zarr", checkerboard[0])
    values = np.ones(made.grid.shape, np.float32)
    with served(checkerboard[0], made.path) as address, visited(browser, address) as visit:
        visit.show((1553, 1155, 0.25))
        visit.bare()
        page, bar = visit.page, visit.page.get_by_label("Scanned", exact=True)
        bar.wait_for()
        shown = is_yellow(visit.now()).sum()
        assert shown == 0
        for _ in range(2):
            blocks = list(made.missing())[:2]
            for block in blocks:
                made.write(block, values[block.slices])
            cells = sum(block.area for block in blocks)
            expected = shown + cells * (CELL * 0.25) ** 2
            until(lambda e=expected: is_yellow(visit.now()).sum() > 0.98 * e, page)  # type: ignore[misc]
            shown = is_yellow(visit.now()).sum()
            assert shown < 1.02 * expected
        assert 0 < float(bar.get_attribute("value") or 0) < 1
        finish(made, values)
        bar.wait_for(state="hidden")
        page.locator(".regions button").first.wait_for()
        until(lambda: is_yellow(visit.now()).sum() > 0.98 * SHAPE[0] * SHAPE[1] / 16, page)


def test_what_cannot_be_read_is_hatched(tmp_path: Path, browser: Browser) -> None:
    pixels = slides.noise(700, 1100) // 4 + 190
    slides.write_slide(tmp_path / "slide.tif", pixels, tile=256)
    slides.spoil_tile(tmp_path / "slide.tif", 0, 3)
    with (
        served(tmp_path / "slide.tif") as address,
        browser.new_context(viewport={"width": 1200, "height": 800}) as private,
    ):
        visit = Visit(private.new_page(), address)
        visit.page.goto(address)
        warning = visit.page.locator(".warnings p").first
        warning.wait_for()
        assert "slide.tif" in warning.inner_text()
        visit.show((550, 350, 1))
        visit.bare()
        shown = visit.settled().astype(int)
    striped = np.abs(shown - (179, 38, 30)).max(axis=2) < 30
    columns = np.flatnonzero(striped.any(axis=0))
    tile = shown.shape[1] / 2 - 550 + 512  # where the slide's second tile begins
    assert abs(columns.min() - tile) <= 4


def test_a_damaged_part_of_the_map_is_hatched(
    checkerboard: tuple[Path, Path], tmp_path: Path, browser: Browser
) -> None:
    damaged = shutil.copytree(checkerboard[1], tmp_path / "map.zarr")
    shard = next(path for path in (damaged / "0" / "c").rglob("*") if path.is_file())
    shard.write_bytes(b"\x5a" * shard.stat().st_size)
    with (
        served(checkerboard[0], damaged) as address,
        browser.new_context(viewport={"width": 1200, "height": 800}) as private,
    ):
        visit = Visit(private.new_page(), address)
        visit.page.goto(address)
        visit.page.locator(".warnings p").get_by_text("map.zarr").first.wait_for()
        visit.show((1553, 1155, 0.63))
        visit.bare()
        shown = visit.settled().astype(int)
    assert (np.abs(shown - (179, 38, 30)).max(axis=2) < 30).mean() > 0.05


def test_a_click_asks_the_patch_classifier(
    section: Path, scanned: Path, tiny_model: Path, browser: Browser
) -> None:
    heatmap = Heatmap.open(scanned)
    expected = float(heatmap.read(heatmap.grid.cells)[350 // 8, 315 // 8])
    with (
        served(section, scanned, models=(str(tiny_model),)) as address,
        visited(browser, address) as visit,
    ):
        page = visit.page
        visit.show((315, 350, 1.0), cut=False)
        visit.settled()
        stage = page.locator(".panes").bounding_box()
        assert stage
        middle = stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2
        page.mouse.click(*middle)
        answer = page.locator(".pair dd")
        answer.first.wait_for()
        there, here = (float(answer.nth(n).get_attribute("title") or "nan") for n in range(2))
        assert abs(there - expected) < 1e-6
        assert abs(here - there) <= 1e-5
        assert f"{expected:.3f}" in page.locator("#readout").inner_text()


def test_a_link_restores_the_view(visit: Visit) -> None:
    page = visit.page
    visit.show((1553, 1155, 0.63), threshold=0.4, opacity=0.7)
    visit.settled()
    for key in ("k", "t", "6", "5"):
        page.keyboard.press(key)
    visit.bare()
    before = visit.settled()
    page.wait_for_timeout(500)
    link = page.evaluate("location.href")
    page.goto("about:blank")
    page.goto(link)
    visit.bare()
    after = visit.settled()
    assert page.get_by_label("Threshold, number").input_value() == "0.400"
    assert page.get_by_label("Colour map").input_value() == "cividis"
    assert (np.abs(before.astype(int) - after) > 8).mean() < 0.002


def test_regions_are_stepped_through_by_key(
    checkerboard: tuple[Path, Path], tmp_path: Path, browser: Browser
) -> None:
    made = create(tmp_path / "map.zarr", checkerboard[0])
    values = np.zeros(made.grid.shape, np.float32)
    for row, p in ((10, 0.8), (40, 0.9), (60, 0.7)):
        values[row : row + 8, 20:30] = p
    finish(made, values)
    with served(checkerboard[0], made.path) as address, visited(browser, address) as visit:
        page = visit.page
        page.locator(".regions button").nth(2).wait_for()
        current = page.locator('.regions button[aria-current="true"] .region-value')
        for key, value in (("n", "0.900"), ("n", "0.800"), ("n", "0.700"), ("p", "0.800")):
            page.keyboard.press(key)
            assert current.inner_text() == value
        middle = 14 * CELL

        def there() -> bool:
            at = re.search(r"[#&]y=([\d.]+)", page.evaluate("location.hash"))
            return at is not None and abs(float(at[1]) - middle) < 1

        until(there, page)


def test_every_key_of_the_help_works(visit: Visit) -> None:
    """None of them fails: `visited` reads the console."""
    page = visit.page
    page.locator(".regions button").first.wait_for()
    page.keyboard.press("?")
    keys = page.locator("#help kbd").all_inner_texts()
    page.keyboard.press("Escape")
    assert {"m", "n", "Enter", "↑", "?"} <= set(keys)
    named = {"←": "ArrowLeft", "→": "ArrowRight", "↑": "ArrowUp", "↓": "ArrowDown"}
    for key in keys:
        if key not in ("?", "s", "Enter"):  # the map's model is not there to be asked
            page.keyboard.press(named.get(key, key))
    with page.expect_download() as download:
        page.keyboard.press("s")
    assert download.value.suggested_filename == "slide.png"


def test_maps_side_by_side_move_as_one(
    checkerboard: tuple[Path, Path], tmp_path: Path, browser: Browser
) -> None:
    slide, first = checkerboard
    made = create(tmp_path / "other.zarr", slide)
    second = finish(made, np.ones(made.grid.shape, np.float32))
    with served(slide, first, second) as address, visited(browser, address) as visit:
        page = visit.page
        page.locator(".layer").nth(1).wait_for()
        page.keyboard.press("l")
        until(lambda: page.locator(".pane").count() == 2, page)
        visit.settled()
        page.mouse.move(300, 450)
        page.mouse.wheel(0, -600)
        page.keyboard.press("r")
        visit.bare()
        page.add_style_tag(content=".pane-label { visibility: hidden }")
        for name in ("map", "other"):
            page.get_by_role("button", name=re.compile(f"^{name} ?tiny")).click()
            page.get_by_label("Opacity, number").locator("visible=true").fill("1")
        both = visit.settled()
    half = both.shape[1] // 2
    left, right = is_yellow(both[:, : half - 1]), is_yellow(both[:, half + 1 :])
    assert 0.2 < left.mean() < 0.8
    assert right.mean() > 0.95
    assert not (left & ~right[:, : left.shape[1]]).any()


def test_a_folder_is_listed_and_a_slide_opens(
    checkerboard: tuple[Path, Path], tmp_path: Path, browser: Browser
) -> None:
    (tmp_path / "good.tif").hardlink_to(checkerboard[0])
    (tmp_path / "bad.svs").write_bytes(b"no slide")
    with served(tmp_path) as address, visited(browser, address) as visit:
        page = visit.page
        page.get_by_text("bad.svs: ").wait_for()
        page.get_by_role("link", name=re.compile("good")).click()
        visit.settled()
        assert page.locator("#title").inner_text() == "good.tif"
        page.keyboard.press("g")
        page.locator(".card").first.wait_for()
        # Chromium itself tells of the thumbnail that there is not.
        visit.complaints = [line for line in visit.complaints if "503" not in line]


def test_a_lost_server_is_told_in_words(
    checkerboard: tuple[Path, Path], tmp_path: Path, browser: Browser
) -> None:
    with browser.new_context() as private:
        page = private.new_page()
        # A process, whose connections end with it.
        with serving_process(*checkerboard, errors=tmp_path / "log.txt") as (address, _):
            page.goto(f"http://{address}/")
            page.locator(".regions button").first.wait_for()
        page.get_by_label("Threshold, number").fill("0.3")
        page.get_by_label("Threshold, number").press("Enter")
        page.get_by_text("Is `slidescan view` still running?").first.wait_for()


def test_an_outline_keeps_its_width(
    checkerboard: tuple[Path, Path], tmp_path: Path, browser: Browser
) -> None:
    ring = [[600, 500], [2400, 500], [2400, 1900], [600, 1900], [600, 500]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "Tumour", "color": [200, 0, 200]}},
    }
    path = tmp_path / "slide.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    widths = []
    with (
        served(*checkerboard, annotations=(path,)) as address,
        visited(browser, address) as visit,
    ):
        for zoom in (0.3, 2.0):
            visit.show((600, 1200, zoom), shown=False)
            visit.bare()
            pixels = visit.settled().astype(int)
            line = pixels[pixels.shape[0] // 2]
            blue = np.clip((line[:, 2] - line[:, 0]) / 178, 0, 1)  # of #0072b2
            widths.append(blue[blue > 0.2].sum())
    assert abs(widths[0] - 2) < 0.6
    assert abs(widths[1] - 2) < 0.6
